// A model on one GPU, inside the stack: its weights as pages, the buffers that all its sequences share, and the list of instructions that a
// sequence runs. Host code; nothing of it outlives the stack.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "device_memory.h"
#include "pack/pack.cuh"
#include "persistent/device_list.h"
#include "stack.h"

namespace kilotoken::stack {

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument("the stack: " + what); }
inline void need(bool holds, const char* what) {
  if (!holds) refuse(what);
}

struct Linear {
  Device<uint8_t> pages;
  Tiling tiling{};
  Format format = Format::kE4m3;
  int k = 0;
};

struct DenseFfn {
  Linear up, down;  // up: gate and up rows by turns of eight
};

struct Mixture {
  Linear router;  // high parts, then low parts
  int router_tiles = 0, low_tiles = 0;
  Device<float> bias;
  Storage storage = Storage::kMxfp4;
  Device<uint8_t> up, down;
  Tiling down_tiling{};
  int page_k = 512, segments = 1, pages_per_segment = 0, tiles = 0, units = 0, passes = 1, units_per_pass = 1, experts_per_page = 1;
};

struct Layer {
  AttentionShape shape;
  Device<float> input_norm, post_norm, sinks;
  Device<float> q_norm, k_norm;  // the draft's
  Linear qkv, o;
  bool mixture = false;
  DenseFfn dense;
  Mixture experts;
  const float* turns = nullptr;
};

// Inputs of a linear, by who reads them: a buffer is written again only a layer later (persistent/instruction.h).
enum class Reader { kQkv, kO, kFfn, kDown, kHead, kDraftContext };
inline constexpr int kReaders = 6;

struct InputBuffers {
  Device<uint8_t> codes;
  Device<float> scales;
  Device<uint16_t> high, low;
};

// Buffers that every sequence shares: one step is in progress at a time.
struct Workspace {
  InputBuffers inputs[kReaders];
  std::map<std::tuple<int, int, int, int>, Device<float>> parts;  // by tiling: tiles, slices, pages, blocks
  Device<float> residual, squares, partial, pieces, logits, draft_logits;
  Device<uint16_t> q;
  Device<float> inbox, outbox;  // Comm
  Device<uint64_t> best;        // Comm
  Device<uint8_t> h;
  Device<uint16_t> tap_high, tap_low;
  Device<Choice> choice;
  Device<double> row, draft_row;
  Device<Epoch> epoch;
};

// Pointers into one sequence's caches, by layer.
struct Caches {
  std::vector<Device<uint16_t>> keys, values;  // target layers, then one for all draft layers
};

// How the pages of a matrix are dealt out to `blocks`.
Tiling tile(int rows, int k, Format format, int blocks);

class Model {
 public:
  // Throws DeviceError if the GPU is not of the Hopper generation or cannot load the kernel. blocks: 0: one a multiprocessor.
  Model(int device, int blocks, int rank = 0, int ranks = 1);

  void load(const TargetShape& target, const DraftShape* draft, WeightSource& source);
  void load_toy(const ToyTables& toy);
  Caches make_caches() const;
  // What a sequence with these caches runs; [0, verify) drafts, the rest verifies.
  std::vector<Instruction> instructions(const Caches& caches, int& verify) const;

  int device = 0, blocks = 0;
  TargetShape target;
  DraftShape draft;
  bool has_draft = false, is_toy = false;
  int block_size = 1;
  size_t weight_bytes = 0;
  Workspace work;
  Comm comm;

 private:
  friend class ProgramBuilder;
  Linear pack(const std::vector<RowSource>& rows, int k, Format format, const Matrix& a, const Matrix& b = {}, const Matrix& c = {});
  Linear plain(WeightSource& source, Tensor tensor, int layer, int rows, int k);
  Linear gate_up(const Matrix& gate, const Matrix& up, int width, int k);
  Device<float> vector(WeightSource& source, Tensor tensor, int layer, int count);
  const float* turns(double theta);
  void reserve_parts(const Tiling& tiling);
  void size_workspace();
  Layer load_target_layer(WeightSource& source, int index);
  Layer load_draft_layer(WeightSource& source, int index);

  Device<uint16_t> embedding_;
  Device<float> final_norm_;
  Linear head_;
  std::vector<Layer> layers_;
  Linear draft_fc_, draft_kv_;
  Device<float> draft_hidden_norm_, draft_final_norm_, draft_mask_, draft_k_norms_;
  std::vector<Layer> draft_layers_;
  std::vector<std::pair<double, Device<float>>> turns_;
  Device<float> toy_target_, toy_draft_;
  ToyTables toy_;
  int widest_input_ = 0, draft_fc_first_ = 0;
};

}  // namespace kilotoken::stack
