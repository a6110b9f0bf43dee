/* A driver library that answers only the first questions of the CUDA runtime, for test/cpu/cuda/driver.test.ts: its version, whether it starts. And, for
   gpu-look.test.ts, on which GPU this process has a context: STUB_HELD. */
#include <stdlib.h>
#include <string.h>

static int from(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int *version) { return *version = from("STUB_VERSION", 13000), 0; }
int cuInit(unsigned flags) { return (void)flags, from("STUB_INIT", 0); }
int cuDevicePrimaryCtxGetState(int gpu, unsigned *flags, int *active) { return *flags = 0, *active = gpu == from("STUB_HELD", -1), 0; }
static int not_supported(void) { return 801; }

int cuGetProcAddress_v2(const char *symbol, void **out, int version, unsigned long flags, int *status) {
  (void)version, (void)flags;
  if (status) *status = 0;
  if (!strcmp(symbol, "cuDriverGetVersion")) *out = (void *)cuDriverGetVersion;
  else if (!strcmp(symbol, "cuInit")) *out = (void *)cuInit;
  else if (!strcmp(symbol, "cuGetProcAddress")) *out = (void *)cuGetProcAddress_v2;
  else *out = (void *)not_supported;
  return 0;
}
int cuGetProcAddress(const char *symbol, void **out, int version, unsigned long flags) {
  return cuGetProcAddress_v2(symbol, out, version, flags, 0);
}
