// Looks at the GPUs at the addresses given, or, with none, at those that CUDA shows (streams/cuda_runtime_api.h); prints what it finds, a GPU a line of JSON.
#include <dlfcn.h>

#include <cstdio>

#include "native/cuda/gpu_look.h"

int main(int argc, char** argv) {
  const std::vector<std::string> addresses(argv + 1, argv + argc);
  dlopen("libcuda.so.1", RTLD_NOW);  // as the runtime has by then
  for (int again = 0; again < 2; ++again) {
    const auto looks = addresses.empty() ? kilotoken::look_at_gpus() : kilotoken::look_at_addresses(addresses);
    if (again == 0) continue;  // the second look is like the first
    for (const auto& look : looks) {
      std::printf("{\"gpu\":%d,\"held\":%s,\"listed\":%s,\"processes\":[", look.gpu, look.held ? "true" : "false", look.listed ? "true" : "false");
      for (size_t i = 0; i < look.processes.size(); ++i) {
        const auto& p = look.processes[i];
        std::printf("%s{\"pid\":%u,\"name\":\"%s\",\"bytes\":%s,\"own\":%s}", i == 0 ? "" : ",", p.pid, p.name.c_str(), p.bytes ? std::to_string(*p.bytes).c_str() : "null", p.own ? "true" : "false");
      }
      std::printf("],\"used\":%s,\"unseen\":[", look.used_bytes ? std::to_string(*look.used_bytes).c_str() : "null");
      for (size_t i = 0; i < look.unseen.size(); ++i) std::printf("%s\"%s\"", i == 0 ? "" : ",", look.unseen[i].c_str());
      std::printf("]}\n");
    }
  }
}
