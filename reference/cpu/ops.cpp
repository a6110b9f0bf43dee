// One table of ops. CMake compiles this file once per instruction set, each time with another KT_OPS.
#include "ops.h"

#include "attention.h"
#include "linear.h"
#include "quantise_activation.h"
#include "rmsnorm.h"
#include "swiglu.h"

#define KT_TEXT(x) #x
#define KT_NAME(x) KT_TEXT(x)

namespace kilotoken::KT_OPS {

extern const Ops table;
const Ops table = {
    KT_NAME(KT_OPS), linear_bf16, linear_f32, quantise_activation, rmsnorm, swiglu, sigmoid, attention_bf16, attention_f32,
};

}  // namespace kilotoken::KT_OPS
