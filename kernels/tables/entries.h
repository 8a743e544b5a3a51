// Declares every entry of the kernel table once per filling; <op>_ref.cpp,
// <op>_cpu.cpp, and <op>_cuda.cu define them.
#pragma once

#include "dsv/kernels/kernel_table.h"

#define DSV_DECLARE_FUNCTION(entry, Args) void entry(const Args& args, const Stream& stream);
namespace dsv::kernels::reference {
DSV_KERNEL_LIST(DSV_DECLARE_FUNCTION)
}
namespace dsv::kernels::cpu {
DSV_KERNEL_LIST(DSV_DECLARE_FUNCTION)
}
namespace dsv::kernels::cuda {
DSV_KERNEL_LIST(DSV_DECLARE_FUNCTION)
}
#undef DSV_DECLARE_FUNCTION
