// The residual stream: token embeddings in, results of attention and feed-forward added, and the inputs of the next linear made on the spot.
// A block owns 128 columns of all eight rows. RMSNorm is split: the weight is applied here, the factor 1 / rms to the next linear's
// results, because the factor needs the whole row and a linear is, well, linear. E4M3 codes do not depend on it either.
#pragma once

#include "block.cuh"
#include "kernels/comm/all_reduce.cuh"

namespace kilotoken::stack {

// A warp holds one group of 128 columns of one row, a lane four: columns k .. k + 3.
__device__ __forceinline__ void store_codes(const Inputs& out, int row, int k, float4 x) {
  const Quantiser q = quantiser(warp_max_magnitude(fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)))));
  *reinterpret_cast<uint32_t*>(out.codes + e4m3_input_offset(row, k)) =
      static_cast<uint32_t>(e4m3_pair(x.x * q.inverse, x.y * q.inverse)) |
      static_cast<uint32_t>(e4m3_pair(x.z * q.inverse, x.w * q.inverse)) << 16;
  if (k / 4 % 32 == 0) out.scales[k / kQuantGroup * kRows + row] = q.scale;
}

// The same four values as high and low parts.
__device__ __forceinline__ void store_splits(const Inputs& out, int row, int k, float4 x) {
  const ushort4 high = make_ushort4(bf16_of(x.x), bf16_of(x.y), bf16_of(x.z), bf16_of(x.w));
  *reinterpret_cast<ushort4*>(out.high + bf16_input_index(row, k)) = high;
  *reinterpret_cast<ushort4*>(out.low + bf16_input_index(row, k)) =
      make_ushort4(bf16_of(x.x - bf16_value(high.x)), bf16_of(x.y - bf16_value(high.y)), bf16_of(x.z - bf16_value(high.z)),
                   bf16_of(x.w - bf16_value(high.w)));
}

// Columns 4 lane .. + 3 of the block's 128 of `row`, after the residual has become `x`. A warp a row.
__device__ __forceinline__ void make_inputs(float4 x, float4 w, float* squares, const Inputs& out, int group, int row, int lane) {
  const int k = group * kQuantGroup + lane * 4;
  const float sum = warp_sum(((x.x * x.x + x.y * x.y) + x.z * x.z) + x.w * x.w);
  if (lane == 0) squares[group * kRows + row] = sum;
  x = make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w);
  if (out.codes != nullptr) {
    store_codes(out, row, k, x);
  }
  if (out.high != nullptr) {
    store_splits(out, row, k, x);
  }
}

__device__ __forceinline__ void embed(const EmbedArgs& args, Place b) {
  const int row = b.thread / 32, lane = b.thread % 32;
#pragma unroll 1
  for (int group = b.index(); group < args.hidden / kQuantGroup; group += b.count()) {
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
    make_inputs(x, __ldg(reinterpret_cast<const float4*>(args.norm_weight + k)), args.squares, args.out, group, row, lane);
  }
}

__device__ __forceinline__ void reduce(const ReduceArgs& args, Place b) {
  const int row = b.thread / 32, lane = b.thread % 32;
#pragma unroll 1
  for (int group = b.index(); group < args.hidden / kQuantGroup; group += b.count()) {
    const int k = group * kQuantGroup + lane * 4;
    float4* at = reinterpret_cast<float4*>(args.residual + row * args.hidden + k);
    const float4 weight = args.norm_weight != nullptr ? __ldg(reinterpret_cast<const float4*>(args.norm_weight + k)) : float4{};
    const float4 before = args.residual != nullptr ? __ldcg(at) : float4{};
    const int tile = group * 2 + lane / 16, offset = row * kTileRows + lane % 16 * 4;
    float4 branch = args.parts.tiling.most == 1 ? sum_parts<4, 1, float4>(args.parts, b, tile, offset) : sum_parts<2, 4, float4>(args.parts, b, tile, offset);
    if (b.comm().ranks > 1)
      branch = all_reduce(b.comm(), b, args.comm_uses, args.comm_half, group, args.hidden / kQuantGroup, row * kQuantGroup + lane * 4, branch);
    const float4 x = before + branch;
    if (args.residual != nullptr) *at = x;
    if (args.tap.high != nullptr) {
      store_splits(args.tap, row, k, x);
    }
    if (args.norm_weight != nullptr) make_inputs(x, weight, args.squares, args.out, group, row, lane);
  }
}

// h of a dense feed-forward: 128 values of h come from four tiles, each with gate and up rows by turns of eight. A lane makes h 4 (lane % 8) .. + 3 of
// tile lane / 8.
__device__ __forceinline__ void swiglu(const SwigluArgs& args, Place b) {
  const int row = b.thread / 32, lane = b.thread % 32, quad = lane % 8;
  const float factor = norm_factor(args.norm, norm_squares(args.norm, row));
#pragma unroll 1
  for (int group = b.index(); group < args.width / kQuantGroup; group += b.count()) {
    // Four gate rows, and the four up rows eight further.
    const int tile = group * 4 + lane / 8, offset = row * kTileRows + quad / 2 * 16 + quad % 2 * 4;
    const float4 gate = sum_parts<1, 4, float4>(args.parts, b, tile, offset) * factor;
    const float4 up = sum_parts<1, 4, float4>(args.parts, b, tile, offset + 8) * factor;
    const float4 h = make_float4(swiglu_value(gate.x, up.x), swiglu_value(gate.y, up.y), swiglu_value(gate.z, up.z), swiglu_value(gate.w, up.w));
    const int k = group * kQuantGroup + lane * 4;
    if (args.out.codes != nullptr) store_codes(args.out, row, k, h);
    if (args.out.high != nullptr) store_splits(args.out, row, k, h);
  }
}

}  // namespace kilotoken::stack
