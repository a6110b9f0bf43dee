// The sizes that every kernel file agrees on. One block of threads per multiprocessor: two warpgroups multiply, two warps finish tiles, one fetches.
// Twelve warps, three a scheduler, leave 168 registers a thread; a thirteenth would cap all at 128.
#pragma once

#include <cstdint>

namespace kilotoken::stack {

inline constexpr int kRows = 8;          // tokens of a step: anchor and seven drafts; fewer are padded with zero rows
inline constexpr int kTileRows = 64;     // output rows of one matrix product
inline constexpr int kMathThreads = 256;
inline constexpr int kFragmentThreads = 128;  // of a warpgroup's accumulator
inline constexpr int kFinishThreads = 64;
inline constexpr int kThreads = kMathThreads + kFinishThreads + 64;  // one warp rests

// A ring of pages, each one bulk copy. 64 KB in flight already reach the read ceiling; the rest rides through waits (36 KB a microsecond).
inline constexpr int kPageBytes = 17408;
inline constexpr int kPages = 9;
// Of them on their way at a time: as many as saturate the memory. What is asked for beyond them makes inputs, parts and flags wait in the same queues.
inline constexpr int kPagesInFlight = 3;
inline constexpr int kDownPagesInFlight = 5;  // experts down: their pages are shorter

// Inputs of the operation in progress: 8 x 6144 E4M3, or an 8 x 1536 window in two BF16 parts, or h of 64 experts.
inline constexpr int kInputBytes = 49152;

inline constexpr int kMaxExpertsPerToken = 8;
inline constexpr int kMaxStepExperts = kRows * kMaxExpertsPerToken;
inline constexpr int kMaxExperts = 512;
inline constexpr int kMaskWords = kMaxExperts / 16;
inline constexpr int kMaxHidden = 8192;
inline constexpr int kQuantGroup = 128;   // channels that share an activation scale
inline constexpr int kUpperHalf = 32;     // h values of one 64-row tile of gate and up rows
inline constexpr int kDownK = 64;         // k of one unit of the down projection
inline constexpr int kMaxDownUnits = 3;   // units a block accumulates at a time
inline constexpr int kRotary = 64;        // dimensions that RoPE turns, in target and draft
inline constexpr int kValueDim = 128;     // of a head
inline constexpr int kKeyBlock = 64;      // keys that attention over the cache takes at a time, at absolute positions
inline constexpr int kGroupHeads = 16;    // query heads of a key/value head that share one fetch of its keys and values
inline constexpr int kChunkSpan = 8192;   // positions after which chunks of keys grow by a block: at most 128 of them in any context, a multiprocessor each
inline constexpr int kMostChunks = kChunkSpan / kKeyBlock + 4;  // that a step sees; four more for windows, which begin anywhere
inline constexpr int kPartialFloats = kValueDim + 4;  // its result: weighted sums, the largest score, the sum of exponentials, padding

}  // namespace kilotoken::stack
