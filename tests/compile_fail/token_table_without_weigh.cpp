// expect: moe::TokenTable: `inner` needs `void weigh(const RowContext&, Row<Slot>) const noexcept`
#include <moe/routers/token_table.hpp>

#include "parts.hpp"

#ifdef MOE_FAULT
using Inner = parts::Router;
#else
using Inner = moe::TopK;
#endif

int main() {
  moe::TokenTable<Inner> router;
  return router.experts_of_token.rows;
}
