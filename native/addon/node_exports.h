// What the addon with the CUDA engines exports for the node benchmark; its typed mirror is native/node.ts.
#pragma once

#include <napi.h>

namespace kilotoken {

void export_node(Napi::Env env, Napi::Object exports);

}  // namespace kilotoken
