#define HWY_TARGET_INCLUDE "cpu/cpu_info.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <string_view>

#include "dsv/kernels/kernel_table.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

std::int64_t target() { return HWY_TARGET; }

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels {
namespace cpu {
namespace {
HWY_EXPORT(target);
}  // namespace
}  // namespace cpu

std::string_view cpu_isa_name() {
  switch (HWY_DYNAMIC_DISPATCH(cpu::target)()) {
    case HWY_AVX3: return "AVX-512";
    case HWY_AVX2: return "AVX2";
    default: return "portable";
  }
}

}  // namespace dsv::kernels
#endif
