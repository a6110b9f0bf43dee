// Keys and values of every layer and key/value head, one row a position: keys after RoPE, values after the value scale. They are
// BF16 as in the deployed model, or binary32 where a run is compared with an implementation that rounds nothing.
// Rolling back is forgetting a length: rows beyond it are overwritten before anyone reads them. Growth doubles, up to the rows
// that were asked for; running out of memory throws and leaves the cache as it was.
#pragma once

#include <cstdint>
#include <vector>

#include "core/bf16.h"
#include "core/lanes.h"
#include "memory.h"

namespace kilotoken {

enum class KvFormat { bf16, f32 };

// Of one format only the two vectors of that format are filled.
struct KvHead {
  AlignedVector<uint16_t> keys, values;         // [capacity][key_stride], [capacity][value_stride]
  AlignedVector<float> keys_f32, values_f32;
};

struct KvLayer {
  size_t head_dim = 0, key_stride = 0;
  size_t value_dim = 0, value_stride = 0;
  KvFormat format = KvFormat::bf16;
  std::vector<KvHead> heads;

  KvLayer(size_t kv_heads, size_t head_dim, size_t value_dim, KvFormat format)
      : head_dim(head_dim),
        key_stride(round_up(head_dim, kLanes)),
        value_dim(value_dim),
        value_stride(round_up(value_dim, kLanes)),
        format(format),
        heads(kv_heads) {}

  // The cached rows of one head, in the layer's format.
  const void* keys_of(size_t head) const {
    return format == KvFormat::bf16 ? static_cast<const void*>(heads[head].keys.data()) : heads[head].keys_f32.data();
  }
  const void* values_of(size_t head) const {
    return format == KvFormat::bf16 ? static_cast<const void*>(heads[head].values.data()) : heads[head].values_f32.data();
  }

  void put(size_t head, size_t position, const float* key, const float* value, float value_scale) {
    if (format == KvFormat::f32) {
      float* k = heads[head].keys_f32.data() + position * key_stride;
      float* v = heads[head].values_f32.data() + position * value_stride;
      for (size_t d = 0; d < head_dim; ++d) k[d] = key[d];
      for (size_t d = 0; d < value_dim; ++d) v[d] = value[d] * value_scale;
      return;
    }
    uint16_t* k = heads[head].keys.data() + position * key_stride;
    uint16_t* v = heads[head].values.data() + position * value_stride;
    for (size_t d = 0; d < head_dim; ++d) k[d] = float_to_bf16(key[d]);
    for (size_t d = 0; d < value_dim; ++d) v[d] = float_to_bf16(value[d] * value_scale);
  }
};

struct KvCache {
  std::vector<KvLayer> layers;
  size_t length = 0;  // valid positions

  void reserve(size_t positions) {
    if (positions <= capacity_) return;
    const size_t capacity = positions > 2 * capacity_ ? positions : 2 * capacity_;
    for (KvLayer& layer : layers)
      for (KvHead& head : layer.heads) {
        if (layer.format == KvFormat::bf16) {
          head.keys.resize(capacity * layer.key_stride);
          head.values.resize(capacity * layer.value_stride);
        } else {
          head.keys_f32.resize(capacity * layer.key_stride);
          head.values_f32.resize(capacity * layer.value_stride);
        }
      }
    capacity_ = capacity;
  }

 private:
  size_t capacity_ = 0;
};

}  // namespace kilotoken
