// In the place of the header of that name.
#pragma once
#include "cuda_runtime.h"
