// The instruction list of the stack: plain data, made once by the host, read by every block. An instruction is one operation, done by
// `workers` blocks from `first` on; the others go on to the next. It begins when the instruction it `waits` for has been finished by all of that one's workers; parts need no
// such wait (Parts). Pointers are device pointers that outlive the list. A buffer is written again only behind an instruction that all its readers have
// reported to, which is why every place where inputs are kept has a buffer of its own.
#pragma once

#include <cstdint>

#include "kernels/pages.h"
#include "kernels/shapes.h"

namespace kilotoken::stack {

enum class Op : uint32_t {
  kEmbed,      // token ids -> residual, inputs
  kLinear,     // inputs -> parts
  kQkv,        // parts -> q; keys and values into the cache
  kAttendWindow,  // parts -> keys and values into the cache, and what attention makes of them and q -> inputs
  kAttend,     // q, cache -> partial results per chunk of keys
  kCombine,    // partial results -> inputs
  kReduce,     // parts + residual -> residual, inputs
  kSwiglu,     // parts of gate and up -> inputs
  kTopk,       // parts of the router -> chosen experts
  kExpertsUp,  // inputs, chosen experts -> h
  kExpertsDown,  // h -> parts
  kLogits,     // parts of the head -> logits
  kPickDraft,  // logits -> draft tokens
  kPick,       // logits -> what each row of the target decides
  kAccept,     // decisions -> tokens, the next step
  kToy,        // a table of logits instead of a network
};

// Of a buffer of parts: bit 0: whether an odd number of uses of this pass's part of the list (draft or verify) lie before this one; bits 1 and 2: whether
// the draft part and the verify part use it an odd number of times.
using Uses = uint32_t;

// Sums on their way from a linear to whoever adds them up. They carry their own readiness: the lowest bit of each binary32 is one in the buffer's first use,
// zero in the second, and so on, and a reader polls until all its words have the bit of this use. A buffer belongs to linears of one shape, each of which
// writes all of it, so that what lies there is always one use old. The bit is worth 2^-23 of a part and reads as zero.
struct Parts {
  const float* data;  // kPartFloats each, at part_places
  Tiling tiling;
  Uses uses;
};

// Sums of squares of the residual, [groups of 128][8]; the norm's factor is 1 / sqrt(sum / width + epsilon). It is applied to a
// linear's results, so that no block waits for the whole row before quantising its own columns.
struct Norm {
  const float* squares;
  int groups;
  float width;
  float epsilon;
};

// What a following linear reads; null where nobody does.
struct Inputs {
  uint8_t* codes;       // E4M3, e4m3_input_offset
  float* scales;        // [k / 128][8]
  uint16_t* high;       // BF16 of the value, bf16_input_index
  uint16_t* low;        // BF16 of what the first leaves
};

struct EmbedArgs {
  const uint16_t* table;       // BF16 [vocab][hidden]
  const float* mask;           // the draft's: [hidden], for rows behind the anchor; null: the target's tokens
  int32_t mask_id;             // the token that `mask` stands for; -1: none
  const float* norm_weight;    // [hidden]
  float* residual;             // [8][hidden]
  float* squares;
  Inputs out;
  int hidden;
};

struct LinearArgs {
  const uint8_t* pages;
  Tiling tiling;
  Format format;
  const void* input;   // codes, or the high parts
  const void* input2;  // scales, or the low parts
  float* parts;
  Uses uses;
};

// One or more attention layers' projections: rows [q heads | k heads | v heads] x sets.
struct QkvArgs {
  Parts parts;
  Norm norm;
  uint16_t* q;                      // query_index; null when q_heads is 0
  uint16_t* keys;                   // BF16 [set][kv_head][max_context][head_dim], rows as cache_element has them
  uint16_t* values;                 // BF16 [set][kv_head][max_context][128]
  const float *q_norm, *k_norm;     // [set][head_dim], or null
  const float* turns;               // [max_context][32][cos, sin]
  float value_scale, head_epsilon;
  int q_heads, kv_heads, head_dim, sets, max_context;
  size_t key_set_stride, value_set_stride;  // elements
};

// Layers with a window of at most 128 and heads of 192: projection's sums to attention's result. One block a head.
struct AttendWindowArgs {
  Parts parts;           // rows [q heads | k heads | v heads]; k in one slice, at most kMostPieces pieces a unit
  Norm norm;
  uint16_t *keys, *values;
  const float* sinks;    // [q_heads], or null
  const float* turns;
  Inputs out;
  float value_scale;
  int q_heads, kv_heads, max_context, window;
  Divisor by_group;      // q_heads / kv_heads
};

struct AttendArgs {
  const uint16_t* q;     // query_index
  const uint16_t *keys, *values;
  const float* sinks;    // [q_heads], or null
  Inputs out;            // k of the next linear = head * 128 + dimension
  float* partial;        // [chunk % kMostChunks][head][8][132]: weighted sums, largest score times log2 e, sum of exponentials
  int q_heads, kv_heads, head_dim, max_context;
  int window;            // 0: none
  bool both_ways;        // the draft's block: every row sees all rows
};

struct ReduceArgs {
  Parts parts;
  float* residual;           // [8][hidden]; null: starts from zero and is not kept
  const float* norm_weight;  // [hidden]; null: no inputs are made, only taps
  float* squares;
  Inputs out;
  Inputs tap;                // high and low parts of the residual itself
  int hidden;
  Uses comm_uses;            // of what other GPUs send
  int comm_half;
};

struct SwigluArgs {
  Parts parts;               // rows as in "up" pages: gate and up by turns of eight
  Norm norm;
  Inputs out;
  int width;
};

// What a row of the router decides. Both carry their own readiness in bit 31, like parts in bit 0.
struct Choice {
  uint32_t masks[kRows][kMaskWords];                 // bit e % 16 of word e / 16: the row chose expert e
  uint2 experts[kRows][kMaxExpertsPerToken];         // id, weight (binary32; positive, so bit 31 is free)
};

struct TopkArgs {
  Parts parts;               // [experts high parts, padded to tiles | the same for low parts, if `low_tiles`]
  Norm norm;
  const float* bias;         // [experts]
  Choice* choice;
  Uses uses;                 // of `choice`
  int experts, per_token, tiles, low_tiles;
  bool normalise;
  float scale;
  float shared;              // TargetShape::shared_routing
  uint32_t salt;             // of its random numbers
};

struct ExpertsUpArgs {
  const uint8_t* pages;      // [expert][tile][page]
  const Choice* choice;
  Uses uses;
  const uint8_t* codes;
  const float* scales;
  Norm norm;
  uint8_t* h;                // [slice of 64][rank of the expert][kDownInputBytes]
  float* pieces;             // [block][kMostCut]: segments of a tile that another block finishes; they carry their own readiness, like parts
  Uses pieces_uses;
  Storage storage;           // of the experts: kMxfp4 or kE4m3
  int experts, per_token, tiles, segments, pages_per_segment, page_k;
  Divisor by_tiles, by_segments, by_blocks;
  int down_units, down_units_of_block;  // of the down products that follow
  Divisor down_by_tiles;
  int mixture_layer;         // counted from 0, for the record
};

struct ExpertsDownArgs {
  const uint8_t* pages;      // [expert][unit]
  const Choice* choice;
  Uses choice_uses;
  const uint8_t* h;
  float* parts;              // [slice][tile]
  Uses uses;
  Storage storage;
  int experts, units, tiles;
  Divisor by_tiles;
  Divisor by_up_tiles;
  int up_tiles;                // tiles of the up products that make an expert's h
  int passes, units_per_pass;  // of a block, all in one slice of k
  int experts_per_page;      // of a ring page
};

inline constexpr Uses kNobodyAsks = ~Uses{0};
struct LogitsArgs {
  Parts parts;
  Norm norm;                 // squares null: none
  float* logits;             // [8][vocab]; only this GPU's
  Uses best_uses;            // of Comm::best; kNobodyAsks: only the sums are wanted
  int vocab, first, rows;    // of the whole head, and this GPU's part of it; padded rows of the last tile are left out
};

struct PickArgs {
  const float* logits;
  Uses best_uses;
  double* row;               // [8][vocab] scratch: p
  double* draft_row;         // [8][vocab]: q, written by kPickDraft, read by kPick
  int vocab, tiles;
};

struct ToyArgs {
  const float* table;        // [vocab^order][rows][vocab]
  float* logits;
  Uses best_uses;
  int vocab, order, table_rows, tiles;
  bool draft;
};

struct Instruction {
  Op op;
  int number;         // its place in the list, which its reports, its faults and what waits for it go by; DeviceList sets it
  uint32_t layer;     // for traces
  int waits;          // index of the instruction that must be finished; -1: none
  uint32_t arrivals;  // that finish it: its workers
  int workers;        // blocks that take part; those of a product that reports nothing but parts never report
  int first;          // the block that is the first of them; behind the last block comes block 0. Not 0 for kAttendWindow, kTopk and kLogits alone, the last in the bench
  union {
    EmbedArgs embed;
    LinearArgs linear;
    QkvArgs qkv;
    AttendWindowArgs window;
    AttendArgs attend;
    ReduceArgs reduce;
    SwigluArgs swiglu;
    TopkArgs topk;
    ExpertsUpArgs up;
    ExpertsDownArgs down;
    LogitsArgs logits;
    PickArgs pick;
    ToyArgs toy;
    uint32_t words[56];
  };
};
static_assert(sizeof(Instruction) == 256, "two words for each lane of a warp");

// Who works: warps that multiply and do all that is no matrix product, warps that finish tiles, the warp that fetches.
enum class Role { kMath, kFinish, kFetch };
inline constexpr int kRoles = 3;

KT_HD constexpr bool is_product(Op op) { return op == Op::kLinear || op == Op::kExpertsUp || op == Op::kExpertsDown; }
// What the finishing warps do without the others.
KT_HD constexpr bool is_finishing(Op op) { return op == Op::kLogits; }
KT_HD constexpr bool has_part(Role role, Op op) {
  switch (role) {
    case Role::kMath: return !is_finishing(op);
    case Role::kFinish: return is_product(op) || is_finishing(op);
    case Role::kFetch: return is_product(op) || op == Op::kAttend || op == Op::kAttendWindow;
  }
  return false;
}

}  // namespace kilotoken::stack
