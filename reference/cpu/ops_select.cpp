// Which tables of ops this processor can run. Compiled for the baseline processor.
#include "ops.h"

namespace kilotoken {

#if defined(__x86_64__)

namespace x86_64_v3 {
extern const Ops table;
}
namespace x86_64_v4 {
extern const Ops table;
}

const Ops* const* available_ops(size_t* count) {
  static const Ops* const tables[] = {&x86_64_v4::table, &x86_64_v3::table};
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  *count = v4 ? 2 : (v3 ? 1 : 0);
  return v4 ? tables : tables + 1;
}

#else

namespace portable {
extern const Ops table;
}

const Ops* const* available_ops(size_t* count) {
  static const Ops* const tables[] = {&portable::table};
  *count = 1;
  return tables;
}

#endif

}  // namespace kilotoken
