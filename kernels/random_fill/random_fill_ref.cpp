#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void random_fill(const RandomFill& args, const Stream&) {
  const View y = flat(args.y);
  const PhiloxStream stream(args.key);
  const double mean = args.mean, std = args.std;
  for (std::int64_t e = 0; e < args.y.num_elements(); ++e) {
    const std::uint64_t element = args.first_element + static_cast<std::uint64_t>(e);
    const PhiloxBlock words = stream.block(element / 4);
    const double z = args.kind == RandomKind::kUniform ? philox_uniform(words[element % 4])
                                                       : philox_normal4(words)[element % 4];
    y(e) = mean + std * z;
  }
}

}  // namespace dsv::kernels::reference
