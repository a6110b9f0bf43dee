// From a row of logits to a token. A processed row is a law over the vocabulary, computed in double:
//   logits / temperature -> keep the top_k largest -> softmax -> keep the smallest set of most likely tokens with mass >= top_p ->
//   renormalise. Ties keep the lowest ids; dropped tokens hold exactly 0.
// Both the target's and the draft's rows go through this one function, and plain and speculative decoding as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace kilotoken {

struct Filters {
  double temperature = 1;  // > 0; greedy decoding has no processed row
  double top_p = 1;        // in (0, 1]
  size_t top_k = 0;        // 0 keeps all
};

// A row no law can be made of: a NaN, +infinity, or no token above -infinity. Such a model cannot be decoded.
struct LogitsFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// logits, p: [vocab]; -infinity is probability 0. Throws LogitsFault.
void processed_row(const float* logits, size_t vocab, const Filters& filters, std::vector<double>& p);

// out: natural logarithms of p, -infinity where p is 0.
void log_row(const std::vector<double>& p, std::vector<double>& out);

// log softmax of raw logits, no filter: what scoring reports. Throws as above.
void log_softmax(const float* logits, size_t vocab, std::vector<double>& out);

// Throws LogitsFault, naming the token.
void check_logits(const float* logits, size_t vocab);

}  // namespace kilotoken
