#include "weights.h"

#include <stdexcept>
#include <vector>

#include "kernels/device_memory.h"

namespace kilotoken::bench {

namespace {

using namespace stack;

constexpr int kBlock = 256;

template <class T, class Make>
__global__ void fill(T* out, size_t count, Make make) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < count) out[i] = make(i);
}

struct E4m3 {
  Stream s;
  __device__ uint8_t operator()(size_t i) const { return e4m3_at(s, i); }
};
struct Bf16 {
  Stream s;
  __device__ uint16_t operator()(size_t i) const { return bf16_at(s, i); }
};
struct Mxfp4 {
  Stream s;
  __device__ uint8_t operator()(size_t i) const { return mxfp4_at(s, i); }
};
struct E8m0 {
  Stream s;
  __device__ uint8_t operator()(size_t i) const { return e8m0_at(s, i); }
};
struct F32 {
  Stream s;
  __device__ float operator()(size_t i) const { return f32_at(s, i); }
};
struct Scale {
  Stream s;
  __device__ float operator()(size_t i) const { return scale_at(s, i); }
};

class BenchSource final : public WeightSource {
 public:
  explicit BenchSource(bool mixture) : mixture_(mixture) {}

  Matrix get(Tensor tensor, int layer) override {
    using T = Tensor;
    const Stream codes = stream_of(tensor, layer), scales = stream_of(tensor, layer, true);
    const auto e4m3 = [&](int rows, int k) -> Matrix {
      const size_t blocks = static_cast<size_t>((rows + 127) / 128) * ((k + 127) / 128);
      const void* made = make<uint8_t>(static_cast<size_t>(rows) * k, E4m3{codes});
      return {Storage::kE4m3, made, make<float>(blocks, Scale{scales}), rows, k, 0};
    };
    const auto bf16 = [&](int rows, int k) -> Matrix {
      return {Storage::kBf16, make<uint16_t>(static_cast<size_t>(rows) * k, Bf16{codes}), nullptr, rows, k, 0};
    };
    const auto f32 = [&](int rows, int k) -> Matrix {
      return {Storage::kF32, make<float>(static_cast<size_t>(rows) * k, F32{codes}), nullptr, rows, k, 0};
    };
    const auto mxfp4 = [&](int rows, int k) -> Matrix {
      const void* made = make<uint8_t>(static_cast<size_t>(rows) * k / 2, Mxfp4{codes});
      return {Storage::kMxfp4, made, make<uint8_t>(static_cast<size_t>(rows) * k / 32, E8m0{scales}), rows, k, 0};
    };
    switch (tensor) {
      case T::kEmbedding:
      case T::kHead: return bf16(kVocab, kHidden);
      case T::kFinalNorm:
      case T::kInputNorm:
      case T::kPostNorm: return bf16(1, kHidden);
      case T::kSinks: return bf16(1, kOInputs / 128);
      case T::kQkv: return e4m3(kQkvRows, kHidden);
      case T::kO: return mixture_ ? bf16(kHidden, kOInputs) : e4m3(kHidden, kOInputs);
      case T::kGate:
      case T::kUp: return mixture_ ? mxfp4(kExperts * kExpertWidth, kHidden) : e4m3(kDenseWidth, kHidden);
      case T::kDown: return mixture_ ? mxfp4(kExperts * kHidden, kExpertWidth) : e4m3(kHidden, kDenseWidth);
      case T::kRouter: return f32(kExperts, kHidden);
      case T::kCorrectionBias: return f32(1, kExperts);
      default: throw std::logic_error("a tensor that no bench has");
    }
  }

  void release() override { made_.clear(); }

 private:
  template <class T, class Make>
  const T* make(size_t count, Make how) {
    made_.emplace_back((count * sizeof(T) + 15) / 16 * 16);
    T* out = reinterpret_cast<T*>(made_.back().get());
    fill<<<static_cast<unsigned>((count + kBlock - 1) / kBlock), kBlock>>>(out, count, how);
    check(cudaGetLastError(), "making weights");
    return out;
  }

  const bool mixture_;
  std::vector<Device<uint8_t>> made_;
};

}  // namespace

TargetShape bench_shape(int layers, bool mixture) {
  TargetShape shape;
  shape.hidden = kHidden;
  shape.vocab = kVocab;
  shape.epsilon = 1e-5f;
  shape.experts = kExperts;
  shape.experts_per_token = 8;
  shape.max_context = 64;
  LayerShape layer;
  layer.attention = {16, 1, 192, 1e4, 128, true};
  layer.mixture = mixture;
  layer.ffn_width = mixture ? kExpertWidth : kDenseWidth;
  shape.layers.assign(static_cast<size_t>(layers), layer);
  return shape;
}

std::unique_ptr<WeightSource> bench_source(bool mixture) { return std::make_unique<BenchSource>(mixture); }

}  // namespace kilotoken::bench
