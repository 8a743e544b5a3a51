// Synthetic clips with captions: textured shapes that move, spin and cover each other over a noisy
// background under a panning camera. For the quick start and for experiments without downloads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

enum class SynthShape { kCircle, kSquare, kTriangle, kStar, kRing, kCross };
enum class SynthTexture { kPlain, kStriped, kCheckered, kDotted };

struct SynthObject {
  SynthShape shape = SynthShape::kCircle;
  SynthTexture texture = SynthTexture::kPlain;
  int colour = 0;  // of synth_colour_name
  bool large = false;
  double x = 0, y = 0;  // centre in the middle of the clip; the picture's shorter side is 1, (0, 0)
                        // its middle
  double dx = 0, dy = 0;  // way over the whole clip
  bool circles = false;   // goes round (x, y) once instead
  double turns = 0;       // about itself over the clip, clockwise
};

struct SynthScene {
  std::vector<SynthObject> objects;   // the first is in front
  int background = 0;                 // of synth_background_name
  double pan_x = 0, pan_y = 0;        // way of the camera over the clip
  std::uint64_t seed = 0, index = 0;  // of the background's noise
};

const char* synth_colour_name(int colour);
const char* synth_background_name(int background);

// Scene `index` of a seed: every choice is philox(seed, kSynth, sample = index), so a clip does not
// depend on how many others are made.
SynthScene synth_scene(std::uint64_t seed, std::uint64_t index);
std::string describe(const SynthScene& scene);
// The picture at `phase` in [0, 1] of the clip into frame [3, H, W] f32, edges anti-aliased.
void render(const SynthScene& scene, double phase, const Tensor& frame);

struct SynthOptions {
  std::int64_t count = 64;
  std::uint64_t seed = 0;
  std::int64_t height = 128, width = 128;
  double fps = 24;
  double seconds = 2;
  int crf = 14;     // of H.264
  int threads = 0;  // 0: as many as the machine has
};

// Writes clip_NNNNN.mp4, videos2caption.json and synth.json (the settings) into `folder`. A folder
// made with the same settings is completed; one with other settings, or with a caption list of
// somebody else, is refused: Error(kConfig). progress(done) from any thread, one at a time, returns
// false to stop; returns the number of clips that are there.
std::int64_t synth(const std::string& folder, const SynthOptions& options,
                   const std::function<bool(std::int64_t done)>& progress = {});

}  // namespace dsv::data
