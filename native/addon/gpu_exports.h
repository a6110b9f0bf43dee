// What the addon with the CUDA engines exports besides.
#pragma once

#include <napi.h>

namespace kilotoken {

void export_gpu(Napi::Env env, Napi::Object exports);

}  // namespace kilotoken
