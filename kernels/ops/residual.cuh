// The residual stream: token embeddings in, results of attention and feed-forward added, and the inputs of the next linear made on the spot.
// A block owns 128 columns of all eight rows. RMSNorm is split: the weight is applied here, the factor 1 / rms to the next linear's
// results, because the factor needs the whole row and a linear is, well, linear. E4M3 codes do not depend on it either.
#pragma once

#include "block.cuh"

namespace kilotoken::stack {

// Row `threadIdx.x / 32`, columns 4 (threadIdx.x % 32) .. + 3 of the block's 128, after the residual has become `x`.
__device__ __forceinline__ void make_inputs(float4 x, const float* norm_weight, float* squares, const Inputs& out, int group) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32, k = group * kQuantGroup + lane * 4;
  const float sum = warp_sum(((x.x * x.x + x.y * x.y) + x.z * x.z) + x.w * x.w);
  if (lane == 0) squares[group * kRows + row] = sum;
  const float4 w = __ldg(reinterpret_cast<const float4*>(norm_weight + k));
  x = make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w);
  if (out.codes != nullptr) {
    const float scale = quant_scale(warp_max(fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)))));
    const uint32_t codes = static_cast<uint32_t>(e4m3_pair(x.x / scale, x.y / scale)) |
                           static_cast<uint32_t>(e4m3_pair(x.z / scale, x.w / scale)) << 16;
    *reinterpret_cast<uint32_t*>(out.codes + e4m3_input_offset(row, k)) = codes;
    if (lane == 0) out.scales[group * kRows + row] = scale;
  }
  if (out.high != nullptr) {
    store_split(out, row, k, x.x);
    store_split(out, row, k + 1, x.y);
    store_split(out, row, k + 2, x.z);
    store_split(out, row, k + 3, x.w);
  }
}

__device__ inline void embed(const EmbedArgs& args, Block& b) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int group = b.index; group < args.hidden / kQuantGroup; group += b.count) {
    const int k = group * kQuantGroup + lane * 4;
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < static_cast<int>(b.shared.rows)) {
      const int32_t id = args.mask != nullptr && row > 0 ? args.mask_id : b.state->step[row];
      if (args.mask != nullptr && id == args.mask_id) {
        x = *reinterpret_cast<const float4*>(args.mask + k);
      } else {
        const ushort4 codes = *reinterpret_cast<const ushort4*>(args.table + static_cast<size_t>(id) * args.hidden + k);
        x = make_float4(bf16_value(codes.x), bf16_value(codes.y), bf16_value(codes.z), bf16_value(codes.w));
      }
    }
    *reinterpret_cast<float4*>(args.residual + row * args.hidden + k) = x;
    make_inputs(x, args.norm_weight, args.squares, args.out, group);
  }
}

__device__ inline void reduce(const ReduceArgs& args, Block& b) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int group = b.index; group < args.hidden / kQuantGroup; group += b.count) {
    const int k = group * kQuantGroup + lane * 4;
    float4* at = reinterpret_cast<float4*>(args.residual + row * args.hidden + k);
    const float4 before = args.residual != nullptr ? __ldcg(at) : float4{};
    float4 branch[1];
    sum_parts(args.parts, group * 2 + lane / 16, row * kTileRows + lane % 16 * 4, 0, branch);
    const float4 x = before + branch[0];
    if (args.residual != nullptr) *at = x;
    if (args.tap.high != nullptr) {
      store_split(args.tap, row, k, x.x);
      store_split(args.tap, row, k + 1, x.y);
      store_split(args.tap, row, k + 2, x.z);
      store_split(args.tap, row, k + 3, x.w);
    }
    if (args.norm_weight != nullptr) make_inputs(x, args.norm_weight, args.squares, args.out, group);
  }
}

// h of a dense feed-forward: 128 values of h come from four tiles, each with gate and up rows by turns of eight. A lane makes h 4 (lane % 8) .. + 3 of
// tile lane / 8.
__device__ inline void swiglu(const SwigluArgs& args, Block& b) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane % 8;
  const float factor = norm_factor(args.norm, row);
  for (int group = b.index; group < args.width / kQuantGroup; group += b.count) {
    float4 sums[2];  // of four gate rows and the four up rows eight further
    sum_parts(args.parts, group * 4 + lane / 8, row * kTileRows + quad / 2 * 16 + quad % 2 * 4, 8, sums);
    const float4 gate = sums[0] * factor, up = sums[1] * factor;
    const float h[4] = {gate.x / (1.0f + expf(-gate.x)) * up.x, gate.y / (1.0f + expf(-gate.y)) * up.y,
                        gate.z / (1.0f + expf(-gate.z)) * up.z, gate.w / (1.0f + expf(-gate.w)) * up.w};
    const int k = group * kQuantGroup + lane * 4;
    if (args.out.codes != nullptr) {
      const float scale = quant_scale(warp_max(fmaxf(fmaxf(fabsf(h[0]), fabsf(h[1])), fmaxf(fabsf(h[2]), fabsf(h[3])))));
      *reinterpret_cast<uint32_t*>(args.out.codes + e4m3_input_offset(row, k)) =
          static_cast<uint32_t>(e4m3_pair(h[0] / scale, h[1] / scale)) | static_cast<uint32_t>(e4m3_pair(h[2] / scale, h[3] / scale)) << 16;
      if (lane == 0) args.out.scales[group * kRows + row] = scale;
    }
    if (args.out.high != nullptr) {
#pragma unroll
      for (int i = 0; i < 4; ++i) store_split(args.out, row, k + i, h[i]);
    }
  }
}

}  // namespace kilotoken::stack
