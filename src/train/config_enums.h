// How configuration files spell the values of enumerations: the one place that says so.
#pragma once

#include "config_value.h"
#include "dsv/train/config.h"

namespace dsv::train {

template <>
constexpr auto kEnumNames<DeviceChoice> = std::to_array<EnumName<DeviceChoice>>(
    {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}});
template <>
constexpr auto kEnumNames<Determinism> =
    std::to_array<EnumName<Determinism>>({{"layout", Determinism::kLayout}, {"fast", Determinism::kFast}});
template <>
constexpr auto kEnumNames<Compute> = std::to_array<EnumName<Compute>>({{"auto", Compute::kAuto},
                                                                       {"f32", Compute::kF32},
                                                                       {"bf16", Compute::kBF16}});
template <>
constexpr auto kEnumNames<ResumeMode> =
    std::to_array<EnumName<ResumeMode>>({{"auto", ResumeMode::kAuto},
                                         {"required", ResumeMode::kRequired},
                                         {"never", ResumeMode::kNever}});
template <>
constexpr auto kEnumNames<ResumeFallback> = std::to_array<EnumName<ResumeFallback>>(
    {{"newest_valid", ResumeFallback::kNewestValid}, {"strict", ResumeFallback::kStrict}});
template <>
constexpr auto kEnumNames<ProgressMode> =
    std::to_array<EnumName<ProgressMode>>({{"auto", ProgressMode::kAuto},
                                           {"bar", ProgressMode::kBar},
                                           {"lines", ProgressMode::kLines},
                                           {"off", ProgressMode::kOff}});
template <>
constexpr auto kEnumNames<LogVerbosity> =
    std::to_array<EnumName<LogVerbosity>>({{"debug", LogVerbosity::kDebug},
                                           {"info", LogVerbosity::kInfo},
                                           {"warn", LogVerbosity::kWarn},
                                           {"error", LogVerbosity::kError},
                                           {"off", LogVerbosity::kOff}});
template <>
constexpr auto kEnumNames<model::Family> = std::to_array<EnumName<model::Family>>(
    {{"wan", model::Family::kWan}, {"dsv", model::Family::kDsv}});
template <>
constexpr auto kEnumNames<model::FeedForward> = std::to_array<EnumName<model::FeedForward>>(
    {{"gelu_tanh", model::FeedForward::kGeluTanh}, {"geglu", model::FeedForward::kGeglu}});
template <>
constexpr auto kEnumNames<model::Checkpointing> = std::to_array<EnumName<model::Checkpointing>>(
    {{"none", model::Checkpointing::kNone},
     {"block", model::Checkpointing::kBlock},
     {"keep_attention", model::Checkpointing::kKeepAttention},
     {"auto", model::Checkpointing::kAuto}});
template <>
constexpr auto kEnumNames<diffusion::TimestepSampling> =
    std::to_array<EnumName<diffusion::TimestepSampling>>(
        {{"uniform", diffusion::TimestepSampling::kUniform},
         {"logit_normal", diffusion::TimestepSampling::kLogitNormal},
         {"mode", diffusion::TimestepSampling::kMode}});
template <>
constexpr auto kEnumNames<diffusion::ShiftScaling> =
    std::to_array<EnumName<diffusion::ShiftScaling>>(
        {{"none", diffusion::ShiftScaling::kNone},
         {"resolution_and_frames", diffusion::ShiftScaling::kResolutionAndFrames}});
template <>
constexpr auto kEnumNames<diffusion::LossWeighting> =
    std::to_array<EnumName<diffusion::LossWeighting>>({{"none", diffusion::LossWeighting::kNone},
                                                       {"by_table",
                                                        diffusion::LossWeighting::kByTable}});
template <>
constexpr auto kEnumNames<sparsity::Policy> =
    std::to_array<EnumName<sparsity::Policy>>({{"full", sparsity::Policy::kFull},
                                               {"window", sparsity::Policy::kWindow},
                                               {"dsv", sparsity::Policy::kDsv},
                                               {"block_mean", sparsity::Policy::kBlockMean}});
template <>
constexpr auto kEnumNames<sparsity::WindowSize> = std::to_array<EnumName<sparsity::WindowSize>>(
    {{"third", sparsity::WindowSize::kThird}, {"two_thirds", sparsity::WindowSize::kTwoThirds}});
template <>
constexpr auto kEnumNames<sparsity::CubePath> = std::to_array<EnumName<sparsity::CubePath>>(
    {{"hilbert", sparsity::CubePath::kHilbert}, {"raster", sparsity::CubePath::kRaster}});
template <>
constexpr auto kEnumNames<sparsity::KeyCount> = std::to_array<EnumName<sparsity::KeyCount>>(
    {{"mass", sparsity::KeyCount::kMass}, {"fixed", sparsity::KeyCount::kFixed}});
template <>
constexpr auto kEnumNames<sparsity::PredictorInput> =
    std::to_array<EnumName<sparsity::PredictorInput>>(
        {{"auto", sparsity::PredictorInput::kAuto},
         {"hidden", sparsity::PredictorInput::kHidden},
         {"qk", sparsity::PredictorInput::kQk}});
template <>
constexpr auto kEnumNames<kernels::Proxy> = std::to_array<EnumName<kernels::Proxy>>(
    {{"mean", kernels::Proxy::kMean}, {"centre", kernels::Proxy::kCentre}});
template <>
constexpr auto kEnumNames<optim::Schedule> =
    std::to_array<EnumName<optim::Schedule>>({{"constant", optim::Schedule::kConstant},
                                              {"cosine", optim::Schedule::kCosine},
                                              {"linear", optim::Schedule::kLinear}});

}  // namespace dsv::train
