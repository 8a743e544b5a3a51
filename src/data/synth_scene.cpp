// Scenes of synthetic clips: chosen, described, drawn.
#include <algorithm>
#include <array>
#include <cmath>

#include "dsv/base/philox.h"
#include "dsv/data/synth.h"

namespace dsv::data {
namespace {

constexpr double kPi = 3.14159265358979323846;

struct Colour {
  const char* name;
  float r, g, b;
};
constexpr Colour kColours[] = {{"red", 0.86f, 0.16f, 0.14f},    {"green", 0.16f, 0.68f, 0.25f},
                               {"blue", 0.15f, 0.32f, 0.86f},   {"yellow", 0.95f, 0.83f, 0.16f},
                               {"purple", 0.56f, 0.22f, 0.72f}, {"orange", 0.96f, 0.52f, 0.10f},
                               {"white", 0.94f, 0.94f, 0.94f},  {"cyan", 0.15f, 0.76f, 0.80f}};
constexpr int kNumColours = static_cast<int>(std::size(kColours));
constexpr Colour kBackgrounds[] = {{"dark", 0.10f, 0.10f, 0.13f},  {"grey", 0.42f, 0.43f, 0.45f},
                                   {"sandy", 0.66f, 0.56f, 0.42f}, {"grassy", 0.24f, 0.36f, 0.20f},
                                   {"sky", 0.50f, 0.66f, 0.80f},   {"brown", 0.33f, 0.23f, 0.17f}};
constexpr int kNumBackgrounds = static_cast<int>(std::size(kBackgrounds));
constexpr const char* kShapes[] = {"circle", "square", "triangle", "star", "ring", "cross"};
constexpr const char* kTextures[] = {"", "striped ", "checkered ", "dotted "};

// Draws the numbers of one scene one after another.
class Dice {
 public:
  Dice(std::uint64_t seed, std::uint64_t index)
      : stream_({.seed = seed, .purpose = RngPurpose::kSynth, .sample = index}) {}
  double uniform() { return philox_uniform(stream_.word(next_++)); }
  double between(double low, double high) { return low + (high - low) * uniform(); }
  int pick(int count) { return std::min(count - 1, static_cast<int>(uniform() * count)); }

 private:
  PhiloxStream stream_;
  std::uint64_t next_ = 0;
};

// Signed distance to the edge of a shape of radius 1 around the origin; negative inside.
double distance_to(SynthShape shape, double x, double y) {
  const double r = std::hypot(x, y);
  switch (shape) {
    case SynthShape::kCircle:
      return r - 1.0;
    case SynthShape::kRing:
      return std::fabs(r - 0.72) - 0.28;
    case SynthShape::kSquare:
      return std::max(std::fabs(x), std::fabs(y)) - 0.85;
    case SynthShape::kCross: {
      const double a = std::max(std::fabs(x) - 1.0, std::fabs(y) - 0.34);
      const double b = std::max(std::fabs(x) - 0.34, std::fabs(y) - 1.0);
      return std::min(a, b);
    }
    case SynthShape::kTriangle:  // three half-planes at distance 0.55, one side below
      return std::max({y - 0.55, 0.8660254 * x - 0.5 * y - 0.55, -0.8660254 * x - 0.5 * y - 0.55});
    case SynthShape::kStar: {
      // The edge between a tip (radius 1) and a notch (0.45), mirrored into one tenth of the
      // circle.
      const double tenth = kPi / 5;
      double angle = std::fmod(std::atan2(x, -y) + 20 * tenth, 2 * tenth);
      angle = std::min(angle, 2 * tenth - angle);
      const double px = r * std::cos(angle), py = r * std::sin(angle);
      const double nx = 0.45 * std::cos(tenth), ny = 0.45 * std::sin(tenth);
      const double ex = nx - 1.0, length = std::hypot(ex, ny);
      return ((px - 1.0) * ny - py * ex) / length;
    }
  }
  return 1;
}

// Share of the lighter colour at a point of a texture, in [0, 1]; `edge` is a pixel in texture
// units.
double pattern_at(SynthTexture texture, double x, double y, double edge) {
  const auto step = [edge](double v) { return std::clamp(0.5 + v / edge, 0.0, 1.0); };
  const auto wave = [](double v) { return std::sin(v) / 7.0; };  // slope about 1 at its zeros
  switch (texture) {
    case SynthTexture::kPlain:
      return 1;
    case SynthTexture::kStriped:
      return step(wave(7.0 * x));
    case SynthTexture::kCheckered: {
      const double a = step(wave(7.0 * x)), b = step(wave(7.0 * y));
      return a * b + (1 - a) * (1 - b);
    }
    case SynthTexture::kDotted: {
      const double cell = 0.55;
      const double u = x - cell * std::round(x / cell), v = y - cell * std::round(y / cell);
      return step(std::hypot(u, v) - 0.17);
    }
  }
  return 1;
}

// Smooth noise on a lattice of random values, by Philox, so that a pan goes on for ever.
class Noise {
 public:
  explicit Noise(const SynthScene& scene)
      : stream_(
            {.seed = scene.seed, .purpose = RngPurpose::kSynth, .step = 1, .sample = scene.index}) {
    for (std::size_t i = 0; i < table_.size(); ++i) {
      table_[i] = static_cast<float>(philox_uniform(stream_.word(i)));
    }
  }
  float at(double x, double y) const {
    const double fx = std::floor(x), fy = std::floor(y);
    const auto ix = static_cast<std::int64_t>(fx), iy = static_cast<std::int64_t>(fy);
    const auto u = static_cast<float>(x - fx), v = static_cast<float>(y - fy);
    const float su = u * u * (3 - 2 * u), sv = v * v * (3 - 2 * v);
    const float top = value(ix, iy) + su * (value(ix + 1, iy) - value(ix, iy));
    const float bottom = value(ix, iy + 1) + su * (value(ix + 1, iy + 1) - value(ix, iy + 1));
    return top + sv * (bottom - top);
  }

 private:
  float value(std::int64_t x, std::int64_t y) const {
    return table_[static_cast<std::size_t>((y & 63) * 64 + (x & 63))];
  }
  PhiloxStream stream_;
  std::array<float, 64 * 64> table_{};
};

std::string motion_of(const SynthObject& o) {
  if (o.circles) return " goes round in a circle";
  if (o.dx == 0 && o.dy == 0) return " stands still";
  const char* vertical = o.dy < 0 ? "up" : "down";
  const char* horizontal = o.dx < 0 ? "left" : "right";
  if (o.dx == 0) return std::string(" moves ") + vertical;
  if (o.dy == 0) return std::string(" moves ") + horizontal;
  return std::string(" moves ") + vertical + " and " + horizontal;
}

std::string name_of(const SynthObject& o) {
  return format("a {} {} {}{}", o.large ? "large" : "small", kColours[o.colour].name,
                kTextures[static_cast<int>(o.texture)], kShapes[static_cast<int>(o.shape)]);
}

}  // namespace

const char* synth_colour_name(int colour) {
  return kColours[colour].name;
}
const char* synth_background_name(int background) {
  return kBackgrounds[background].name;
}

SynthScene synth_scene(std::uint64_t seed, std::uint64_t index) {
  Dice dice(seed, index);
  SynthScene scene;
  scene.seed = seed;
  scene.index = index;
  scene.background = dice.pick(kNumBackgrounds);
  const double pan = dice.uniform();
  if (pan > 0.4) {
    const int direction = dice.pick(4);
    const double way = dice.between(0.15, 0.35);
    scene.pan_x = direction == 0 ? way : direction == 1 ? -way : 0;
    scene.pan_y = direction == 2 ? way : direction == 3 ? -way : 0;
  }
  const int count = 1 + dice.pick(3);
  int last_colour = -1;
  for (int i = 0; i < count; ++i) {
    SynthObject o;
    o.shape = static_cast<SynthShape>(dice.pick(6));
    o.texture = static_cast<SynthTexture>(dice.pick(4));
    // Neighbours in depth differ in colour, so that it shows which is in front.
    o.colour = dice.pick(kNumColours);
    if (o.colour == last_colour) o.colour = (o.colour + 1) % kNumColours;
    last_colour = o.colour;
    o.large = dice.uniform() < 0.5;
    o.x = dice.between(-0.22, 0.22);
    o.y = dice.between(-0.22, 0.22);
    const int motion = dice.pick(10);
    const double way = dice.between(0.35, 0.6);
    if (motion == 9) {
      o.circles = true;
    } else if (motion < 8) {
      static constexpr int kWays[8][2] = {{1, 0}, {-1, 0}, {0, 1},  {0, -1},
                                          {1, 1}, {1, -1}, {-1, 1}, {-1, -1}};
      const double diagonal = motion < 4 ? 1.0 : 0.75;
      o.dx = kWays[motion][0] * way * diagonal;
      o.dy = kWays[motion][1] * way * diagonal;
    }
    const int spin = dice.pick(3);
    const double turns = dice.between(0.4, 0.9);
    o.turns = spin == 0 ? 0 : spin == 1 ? turns : -turns;
    scene.objects.push_back(o);
  }
  return scene;
}

std::string describe(const SynthScene& scene) {
  std::string text;
  for (std::size_t i = 0; i < scene.objects.size(); ++i) {
    const SynthObject& o = scene.objects[i];
    text += (i == 0   ? ""
             : i == 1 ? ", in front of "
                      : ", and ") +
            name_of(o) + (i == 0 ? "" : " that") + motion_of(o);
    // A plain circle or ring shows no spin.
    const bool round = o.shape == SynthShape::kCircle || o.shape == SynthShape::kRing;
    if (o.turns != 0 && !(round && o.texture == SynthTexture::kPlain)) {
      text += o.turns > 0 ? " and spins clockwise" : " and spins counterclockwise";
    }
  }
  text += format(", over a {} background", synth_background_name(scene.background));
  if (scene.pan_x != 0)
    text += scene.pan_x > 0 ? ", the camera pans right" : ", the camera pans left";
  if (scene.pan_y != 0) text += scene.pan_y > 0 ? ", the camera pans down" : ", the camera pans up";
  return text;
}

void render(const SynthScene& scene, double phase, const Tensor& frame) {
  DSV_CHECK(frame.num_dims() == 3 && frame.dim(0) == 3 && frame.stride(2) == 1,
            "[synth] expected a frame [3, H, W], got {}", frame.shape());
  const std::int64_t height = frame.dim(1), width = frame.dim(2);
  const double pixel = 1.0 / static_cast<double>(std::min(height, width));
  const Noise noise(scene);
  const Colour& ground = kBackgrounds[scene.background];
  const double time = phase - 0.5;
  const double camera_x = scene.pan_x * time, camera_y = scene.pan_y * time;

  struct Placed {
    const SynthObject* object;
    double x, y, cosine, sine, radius;
  };
  std::vector<Placed> placed;
  for (auto it = scene.objects.rbegin(); it != scene.objects.rend(); ++it) {  // the farthest first
    Placed p{&*it, it->x + it->dx * time, it->y + it->dy * time, 1, 0, it->large ? 0.24 : 0.14};
    if (it->circles) {
      p.x = it->x + 0.2 * std::cos(2 * kPi * phase);
      p.y = it->y + 0.2 * std::sin(2 * kPi * phase);
    }
    p.x -= camera_x;
    p.y -= camera_y;
    p.cosine = std::cos(2 * kPi * it->turns * phase);
    p.sine = std::sin(2 * kPi * it->turns * phase);
    placed.push_back(p);
  }

  for (std::int64_t row = 0; row < height; ++row) {
    const double y = (static_cast<double>(row) + 0.5 - 0.5 * static_cast<double>(height)) * pixel;
    float* out = frame.f32() + row * frame.stride(1);
    for (std::int64_t column = 0; column < width; ++column) {
      const double x =
          (static_cast<double>(column) + 0.5 - 0.5 * static_cast<double>(width)) * pixel;
      const double wx = x + camera_x, wy = y + camera_y;
      const float light = 0.65f + 0.5f * noise.at(5 * wx + 20, 5 * wy + 20) +
                          0.25f * noise.at(17 * wx + 40, 17 * wy + 40);
      float r = ground.r * light, g = ground.g * light, b = ground.b * light;
      for (const Placed& p : placed) {
        const double dx = (x - p.x) / p.radius, dy = (y - p.y) / p.radius;
        if (dx * dx + dy * dy > 2.25) continue;
        // Into the object's own axes; y points down, so positive angles turn clockwise.
        const double u = p.cosine * dx + p.sine * dy, v = -p.sine * dx + p.cosine * dy;
        const double edge = pixel / p.radius;
        const auto cover = static_cast<float>(
            std::clamp(0.5 - distance_to(p.object->shape, u, v) / edge, 0.0, 1.0));
        if (cover == 0) continue;
        const Colour& colour = kColours[p.object->colour];
        const auto shade =
            static_cast<float>(0.35 + 0.65 * pattern_at(p.object->texture, u, v, edge));
        r += cover * (colour.r * shade - r);
        g += cover * (colour.g * shade - g);
        b += cover * (colour.b * shade - b);
      }
      out[column] = std::min(r, 1.0f);
      out[frame.stride(0) + column] = std::min(g, 1.0f);
      out[2 * frame.stride(0) + column] = std::min(b, 1.0f);
    }
  }
}

}  // namespace dsv::data
