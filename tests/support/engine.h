// A one-rank engine for tests: arena, tracer, mesh, and contexts over any kernel table.
#pragma once

#include "dsv/autograd/context.h"
#include "dsv/autograd/tape.h"

namespace dsv::testing {

struct Engine {
  explicit Engine(const kernels::KernelTable& table = kernels::reference_kernels(),
                  int num_threads = 1)
      : kernels(table), mesh(comm::make_mesh(comm::make_self(), 1, 1)) {
    stream.num_threads = num_threads;
    arena.set_poison(true);
  }
  autograd::Context context(autograd::Tape* tape = nullptr) {
    return {.kernels = kernels,
            .arena = arena,
            .stream = stream,
            .mesh = mesh,
            .tracer = tracer,
            .tape = tape};
  }

  const kernels::KernelTable& kernels;
  Arena arena;
  Stream stream;
  comm::Mesh mesh;
  Tracer tracer;
};

// A tensor of standard normals times scale, different for every `id`.
inline Tensor normal(Engine& engine, const Shape& shape, std::uint64_t id, float scale = 1) {
  const Tensor t = engine.arena.empty(shape);
  const PhiloxStream stream({.seed = 7, .purpose = RngPurpose::kTest, .sample = id});
  for (std::int64_t i = 0; i < t.num_elements(); ++i) {
    const auto e = static_cast<std::uint64_t>(i);
    t.f32()[i] = scale * static_cast<float>(philox_normal4(stream.block(e / 4))[e % 4]);
  }
  return t;
}

inline std::vector<float> to_vector(const Tensor& t) {
  return {t.f32(), t.f32() + t.num_elements()};
}

}  // namespace dsv::testing
