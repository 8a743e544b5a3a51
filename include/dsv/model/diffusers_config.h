// The config.json of a diffusers model as a DitConfig, and back.
#pragma once

#include "dsv/base/json.h"
#include "dsv/model/dit_config.h"

namespace dsv::model {

// Accepts "_class_name" WanTransformer3DModel, and DsvTransformer3DModel (our name for the paper's
// family). Unknown keys that would change the graph, and unsupported values, throw Error(kConfig).
DitConfig config_from_diffusers(const Json& json);
Json config_to_diffusers(const DitConfig& config);

}  // namespace dsv::model
