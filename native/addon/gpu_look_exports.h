// What the addon exports of native/cuda/gpu_look.h.
#pragma once

#include <napi.h>

namespace kilotoken {

void export_gpu_look(Napi::Env env, Napi::Object exports);

}  // namespace kilotoken
