// Results of the engine as JavaScript values, in the shapes native/addon.ts declares.
#pragma once

#include <napi.h>

#include <vector>

#include "native/engine/model.h"

namespace kilotoken {

Napi::Value round_to_js(Napi::Env env, const Round& round);
Napi::Value scored_to_js(Napi::Env env, const Scored& scored);
Napi::Value top_rows_to_js(Napi::Env env, const std::vector<TopRow>& rows);

}  // namespace kilotoken
