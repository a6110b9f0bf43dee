/* A management library of the driver for test/cpu/cuda/gpu-look.test.ts: two GPUs, at 00000000:01:00.0 and 00000000:02:00.0, on which stand whatever
   the environment says. STUB_COMPUTE, STUB_GRAPHICS: "gpu:pid:bytes ..." ("self" for the pid of whoever asks, "-" for bytes that are not told);
   STUB_USED: bytes in use on both; STUB_FAIL: names of functions that fail. Compile with -DVERSION=1, 2 or 3: which of the functions there are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 3
#endif

struct first { unsigned pid; unsigned long long used; };
struct later { unsigned pid; unsigned long long used; unsigned gpu, compute; };
#if VERSION == 1
typedef struct first process;
#else
typedef struct later process;
#endif
struct memory { unsigned version; unsigned long long total, reserved, free, used; };

static int fails(const char *name) {
  const char *list = getenv("STUB_FAIL");
  return list && strstr(list, name) ? 999 : 0;
}

static int gpus[2];

static int list(const char *name, const char *variable, void *device, unsigned *count, process *to) {
  unsigned found = 0, room = *count;
  if (fails(name)) return 999;
  char text[65536];
  snprintf(text, sizeof text, "%s", getenv(variable) ? getenv(variable) : "");
  for (char *at = strtok(text, " "); at; at = strtok(NULL, " ")) {
    char pid[16], bytes[24];
    int gpu;
    if (sscanf(at, "%d:%15[^:]:%23s", &gpu, pid, bytes) != 3 || &gpus[gpu] != device) continue;
    if (found < room) {
      memset(&to[found], 0x5a, sizeof *to);
      to[found].pid = strcmp(pid, "self") ? (unsigned)atoi(pid) : (unsigned)getpid();
      to[found].used = strcmp(bytes, "-") ? strtoull(bytes, NULL, 10) : ~0ull;
    }
    ++found;
  }
  *count = found;
  return found > room ? 7 : 0;
}

int nvmlInit_v2(void) { return fails("nvmlInit"); }
const char *nvmlErrorString(int status) { return status == 999 ? "Unknown Error" : "?"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **device) {
  if (!strcmp(address, "00000000:01:00.0")) return *device = &gpus[0], 0;
  if (!strcmp(address, "00000000:02:00.0")) return *device = &gpus[1], 0;
  return 999;
}
#define LISTS(suffix) \
  int nvmlDeviceGetComputeRunningProcesses##suffix(void *d, unsigned *n, process *to) { return list("Compute", "STUB_COMPUTE", d, n, to); } \
  int nvmlDeviceGetGraphicsRunningProcesses##suffix(void *d, unsigned *n, process *to) { return list("Graphics", "STUB_GRAPHICS", d, n, to); }
#if VERSION == 1
LISTS()
#elif VERSION == 2
LISTS(_v2)
#else
LISTS(_v3)
/* As in real ones, the old names are there too, with entries of the old size: they must not be called. */
int nvmlDeviceGetComputeRunningProcesses(void *d, unsigned *n, void *to) { (void)d, (void)n, (void)to; abort(); }
#endif
#if VERSION > 1
int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *to) {
  (void)device;
  if (fails("Memory") || to->version != (sizeof *to | 2u << 24)) return 999;
  to->used = strtoull(getenv("STUB_USED") ? getenv("STUB_USED") : "0", NULL, 10);
  return 0;
}
#endif
