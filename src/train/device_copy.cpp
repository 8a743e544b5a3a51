#include "dsv/train/device_copy.h"

#include "dsv/data/host_tensor.h"
#include "dsv/tensor/transfer.h"

namespace dsv::train {

Tensor to_device(const autograd::Context& ctx, const Tensor& host) {
  if (!host.defined()) return {};
  const Tensor device = ctx.arena.like(host);
  transfer(host, device, ctx.stream);
  return device;
}

Tensor to_host(const autograd::Context& ctx, const Tensor& device) {
  if (!device.defined()) return {};
  const Tensor host = data::host_tensor(device.shape(), device.dtype());
  transfer(device, host, ctx.stream);
  return host;
}

}  // namespace dsv::train
