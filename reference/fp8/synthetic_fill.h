// Synthetic weights written where they are used: the stored bytes of one tensor of core/synthetic.h, by the GPU.
#pragma once

#include "core/synthetic.h"
#include "device.h"

namespace kilotoken::fp8 {

// out: t.size() bytes on the device, 16-byte aligned.
void synthetic_fill(uint64_t seed, const SyntheticTensor& t, void* out, cudaStream_t stream);

}  // namespace kilotoken::fp8
