// The instruction list on the device: the whole of it, for launches of one instruction, behind it what each role of the resident kernel has a part in, and the reports.
#pragma once

#include <vector>

#include "kernel.cuh"
#include "kernels/device_memory.h"

namespace kilotoken::stack {

// Outlives the launches of every Program that it was given to.
class DeviceList {
 public:
  DeviceList() = default;
  // [0, verify) drafts.
  explicit DeviceList(std::vector<Instruction> list, int verify = 0) : verify_(verify), count_(static_cast<int>(list.size())), done_(list.size() * kLineWords) {
    for (int i = 0; i < count_; ++i) list[i].number = i;
    for (int r = 0; r < kRoles; ++r) {
      begin_[r] = static_cast<int>(list.size());
      for (int i = 0; i < count_; ++i) {
        if (i == verify) verify_of_[r] = static_cast<int>(list.size()) - begin_[r];
        if (has_part(static_cast<Role>(r), list[i].op)) list.push_back(list[i]);
      }
      end_[r] = static_cast<int>(list.size());
    }
    list_ = Device<Instruction>(list);
  }

  void give(Program& program) const {
    program.list = list_.get();
    program.verify = verify_;
    program.count = count_;
    program.done = done_.get();
    for (int r = 0; r < kRoles; ++r) program.of[r] = {list_.get() + begin_[r], verify_of_[r], end_[r] - begin_[r]};
  }

 private:
  int verify_ = 0, count_ = 0, begin_[kRoles] = {}, end_[kRoles] = {}, verify_of_[kRoles] = {};
  Device<Instruction> list_;
  Device<uint32_t> done_;
};

}  // namespace kilotoken::stack
