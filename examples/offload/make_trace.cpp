// make_trace: a made-up routing trace with adjustable locality, the same bits on every machine.
#include <iostream>
#include <moe/io/trace_file.hpp>
#include <moe/offline/trace_generator.hpp>

#include "command_line.hpp"

int main(int argc, char** argv) {
  CLI::App app("Writes a made-up routing trace, as replay reads it.", "make_trace");
  std::string out;
  moe::TraceShape shape;
  const auto count = CLI::Range(1, 1 << 30);
  app.add_option("--out", out, "File to write")->required();
  app.add_option("--layers", shape.layers, "Layers with experts")->check(count)->capture_default_str();
  app.add_option("--experts", shape.experts, "Experts of a layer")->check(count)->capture_default_str();
  app.add_option("--k", shape.k, "Experts that a token picks")->check(count)->capture_default_str();
  app.add_option("--sequences", shape.sequences, "Texts")->check(count)->capture_default_str();
  app.add_option("--tokens", shape.tokens, "Tokens of each text")->check(count)->capture_default_str();
  app.add_option("--batch", shape.batch, "Texts that run together")->check(count)->capture_default_str();
  app.add_option("--bias", shape.bias, "How strong a text's taste is: favours LFU")->capture_default_str();
  app.add_option("--rho", shape.rho, "How much a token is like the one before: favours LRU")->capture_default_str();
  app.add_option("--tau", shape.tau, "How unequal the weights are")->capture_default_str();
  app.add_option("--seed", shape.seed, "Another seed, another trace")->capture_default_str();
  return programs::run(app, argc, argv, [&] {
    const moe::RoutingTrace trace = moe::generate_trace(shape);
    moe::io::write_trace(out, trace);
    std::cerr << trace.records().size() << " records\n";
  });
}
