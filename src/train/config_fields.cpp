#include "config_fields.h"

#include "config_enums.h"
#include "config_rules.h"
#include "config_table.h"

namespace dsv::train {
namespace {

constexpr double kManySteps = 1e12;
constexpr Drift kModel = Drift::kModel, kTraining = Drift::kTraining, kFree = Drift::kFree;

void add_run(Table& t) {
  t.field(DSV_FIELD(run.name), kFree,
          "names the folder of the run; default: stem of the first file")
      .rule("1 … 100 letters, digits, . _ -",
            [](const Config& c) { return name_problem(c.run.name); });
  t.field(DSV_FIELD(run.dir), kFree, "folder that holds the folders of runs")
      .rule("a path", [](const Config& c) { return path_problem(c.run.dir, false); });
  t.field(DSV_FIELD(run.seed), kTraining,
          "of initial weights, order of samples, noise, timesteps, and dropout of text");
  t.field(DSV_FIELD(run.steps), kFree,
          "optimizer steps in all; may change on resume unless a schedule's length follows from it",
          between(1, kManySteps));
  t.field(DSV_FIELD(run.device), kFree, "auto: cuda where this build and machine have it");
  t.field(DSV_FIELD(run.determinism), kTraining,
          "layout: bitwise equal for the same ranks, threads per rank, and processor or GPU. fast: "
          "on cuda, attention's backward and sums over ranks in the order that is fastest; the cpu "
          "keeps the promise anyway");
  t.field(DSV_FIELD(run.threads), kFree, "per rank; 0: this rank's share of the host's cores",
          between(0, 4096));

  t.field(
      DSV_FIELD(precision.compute), kFree,
      "of GEMM and attention operands; auto: f32 on cpu, bf16 on cuda. Sums, norms, softmax, loss, "
      "and optimizer are f32 in any case");
}

void add_model(Table& t) {
  t.field(DSV_FIELD(model.preset), kFree,
          "where the other fields of this section start from; a layer that names it starts the "
          "section afresh")
      .type(join_names(model::preset_names()))
      .rule("", [](const Config& c) { return preset_problem(c.model.preset); });
  t.field(DSV_FIELD(model.family), kModel,
          "wan: the graph of Wan2.1 (3-D RoPE, q/k norm); dsv: the paper's (sin-cos positions, "
          "text mask)");
  t.field(DSV_FIELD(model.num_layers), kModel, "transformer blocks", between(1, 1024));
  t.field(DSV_FIELD(model.num_heads), kModel, "attention heads", between(1, 1024));
  t.field(DSV_FIELD(model.head_dim), kModel, "channels of a head, even; width = heads * head_dim",
          between(2, 256));
  t.field(DSV_FIELD(model.ffn_dim), kModel, "inner channels of the feed-forward",
          between(1, 1 << 20));
  t.field(DSV_FIELD(model.ffn), kModel, "activation of the feed-forward; geglu adds a gate");
  t.field(DSV_FIELD(model.in_channels), kModel, "channels of a latent", between(1, 1 << 16));
  t.field(DSV_FIELD(model.out_channels), kModel,
          "of the prediction: in_channels, or twice that with learn_sigma", between(1, 1 << 17));
  t.field(DSV_FIELD(model.learn_sigma), kModel,
          "the prediction has a second half, which the loss ignores");
  t.field(DSV_FIELD(model.patch_size), kModel, "latent frames, rows, columns of a token",
          between(1, 64));
  t.field(DSV_FIELD(model.text_dim), kModel, "channels of text embeddings", between(1, 1 << 17));
  t.field(DSV_FIELD(model.text_len), kModel, "rows of text, zero-padded", between(1, 1 << 14));
  t.field(DSV_FIELD(model.freq_dim), kModel, "channels of the timestep's sinusoid, even",
          between(2, 1 << 14));
  t.field(DSV_FIELD(model.eps), kModel, "of norms in blocks", above(0).at_most(0.01));
  t.field(DSV_FIELD(model.cross_attn_norm), kModel, "wan: affine norm before cross-attention");
  t.field(DSV_FIELD(model.qk_norm), kModel, "wan: RMSNorm of q and k over the full width");
  const auto is_dsv = [](const Config& c) { return c.model.family == model::Family::kDsv; };
  t.field(DSV_FIELD(model.pos_base_size), kModel,
          "rows and columns of tokens at which position embeddings have unit spacing",
          between(1, 65536))
      .used_when("model.family is dsv", is_dsv);
  t.field(DSV_FIELD(model.pos_interpolation_scale), kModel, "stretches that grid",
          above(0).at_most(1e6))
      .used_when("model.family is dsv", is_dsv);
  t.field(DSV_FIELD(model.checkpointing), kFree,
          "activations kept for the backward pass: all; only a block's input; its input and its "
          "attention's output. The rest is computed again. auto: keep_attention, and all of as many "
          "blocks as a GPU has memory for; it changes no bit of a result");
}

void add_diffusion(Table& t) {
  using diffusion::TimestepSampling;
  const auto sampling = [](TimestepSampling is) {
    return [is](const Config& c) { return c.diffusion.timestep_sampling == is; };
  };
  t.field(DSV_FIELD(diffusion.timestep_sampling), kTraining, "distribution of t before the shift");
  t.field(DSV_FIELD(diffusion.logit_mean), kTraining, "mean of logit(t)", between(-20, 20))
      .used_when("diffusion.timestep_sampling is logit_normal",
                 sampling(TimestepSampling::kLogitNormal));
  t.field(DSV_FIELD(diffusion.logit_std), kTraining, "standard deviation of logit(t)",
          above(0).at_most(20))
      .used_when("diffusion.timestep_sampling is logit_normal",
                 sampling(TimestepSampling::kLogitNormal));
  t.field(DSV_FIELD(diffusion.mode_scale), kTraining,
          "weight of middle t (arXiv 2403.03206, equation 20)", between(-1, 1.75))
      .used_when("diffusion.timestep_sampling is mode", sampling(TimestepSampling::kMode));
  t.field(DSV_FIELD(diffusion.shift), kTraining,
          "s in sigma' = s sigma / (1 + (s - 1) sigma), in training and sampling; above 1: noisier",
          above(0).at_most(1000));
  t.field(DSV_FIELD(diffusion.shift_scaling), kTraining,
          "resolution_and_frames: s is multiplied by sqrt(pixels / shift_base_pixels) * "
          "sqrt(latent frames / shift_base_frames)");
  const auto is_scaled = [](const Config& c) {
    return c.diffusion.shift_scaling == diffusion::ShiftScaling::kResolutionAndFrames;
  };
  t.field(DSV_FIELD(diffusion.shift_base_pixels), kTraining, "height * width",
          above(0).at_most(1e12))
      .used_when("diffusion.shift_scaling is resolution_and_frames", is_scaled);
  t.field(DSV_FIELD(diffusion.shift_base_frames), kTraining, "latent frames", above(0).at_most(1e6))
      .used_when("diffusion.shift_scaling is resolution_and_frames", is_scaled);
  t.field(DSV_FIELD(diffusion.loss_weighting), kTraining, "of a sample's loss by its t");
  t.field(DSV_FIELD(diffusion.loss_weight_table), kTraining,
          "weights at equally spaced t from 0 to 1, interpolated between")
      .rule("2 … 4096 weights, each 0 … 1e6",
            [](const Config& c) { return weights_problem(c.diffusion.loss_weight_table); })
      .used_when("diffusion.loss_weighting is by_table", [](const Config& c) {
        return c.diffusion.loss_weighting == diffusion::LossWeighting::kByTable;
      });
  t.field(DSV_FIELD(diffusion.cfg_dropout), kTraining,
          "share of samples that train without their text, for classifier-free guidance",
          between(0, 1));
}

void add_data(Table& t) {
  t.field(DSV_FIELD(data.shards), kTraining, "folder that `dsv data encode` wrote")
      .rule("a path", [](const Config& c) { return path_problem(c.data.shards, true); });
  t.field(DSV_FIELD(data.buckets), kTraining,
          "shapes of batches in pixels and frames, `HEIGHTxWIDTH: {FRAMES: {probability: p, batch: "
          "b}}` or `{FRAMES: [p, b]}`; empty: every shape in the shards, by its share of samples. "
          "Probabilities are of steps and are normalised; batch counts samples per step over all "
          "ranks")
      .rule("sides and frames 1 … 65536, p above 0, b 1 … 1e6",
            [](const Config& c) { return buckets_problem(c.data.buckets); });
  t.field(DSV_FIELD(data.batch), kTraining, "samples per step over all ranks", between(1, 1e6))
      .used_when("data.buckets is empty", [](const Config& c) { return c.data.buckets.empty(); });
  t.field(DSV_FIELD(data.micro_batch), kFree,
          "most samples per rank in one forward pass; gradients of the rest accumulate",
          between(1, 65536));
  t.field(DSV_FIELD(data.prefetch), kFree, "micro-batches read ahead", between(1, 4096));
  t.field(DSV_FIELD(data.threads), kFree, "loader threads per rank", between(1, 256));
  t.field(DSV_FIELD(data.verify_crc), kFree, "check each sample's CRC-32C as it is read");
  t.field(
      DSV_FIELD(data.held_out_percent), kTraining,
      "percent of samples, at least 8, kept from training for the held-out loss; chosen by hash "
      "of the sample id",
      between(0, 50));
}

void add_optim(Table& t) {
  const auto decays = [](const Config& c) {
    return c.optim.schedule != optim::Schedule::kConstant;
  };
  t.field(DSV_FIELD(optim.lr), kTraining, "learning rate of AdamW at its peak", between(0, 10));
  t.field(DSV_FIELD(optim.beta1), kTraining, "decay of the first moment", at_least(0).below(1));
  t.field(DSV_FIELD(optim.beta2), kTraining, "decay of the second moment", at_least(0).below(1));
  t.field(DSV_FIELD(optim.eps), kTraining, "added to the root of the second moment",
          above(0).at_most(1));
  t.field(DSV_FIELD(optim.weight_decay), kTraining,
          "decoupled; norms, biases, and tables are exempt", between(0, 10));
  t.field(DSV_FIELD(optim.grad_clip), kTraining,
          "largest global norm of the gradient; 0: not clipped, still measured", between(0, 1e9));
  t.field(DSV_FIELD(optim.schedule), kTraining, "of the learning rate after warm-up");
  t.field(DSV_FIELD(optim.warmup_steps), kTraining, "steps of linear growth from 0 to lr",
          between(0, kManySteps));
  t.field(DSV_FIELD(optim.decay_steps), kTraining,
          "steps of decay after warm-up; 0: up to run.steps", between(0, kManySteps))
      .used_when("optim.schedule is cosine or linear", decays);
  t.field(DSV_FIELD(optim.min_lr_ratio), kTraining, "end of the decay as a share of lr",
          between(0, 1))
      .used_when("optim.schedule is cosine or linear", decays);
  t.field(DSV_FIELD(optim.ema), kModel, "keep an exponential moving average of the weights");
  t.field(DSV_FIELD(optim.ema_decay), kTraining,
          "of that average: min(ema_decay, (1 + n) / (10 + n)) at update n", at_least(0).below(1));
}

void add_files(Table& t) {
  t.field(DSV_FIELD(checkpoint.every_steps), kFree,
          "0: only at the end and when stopped on request", between(0, kManySteps));
  t.field(DSV_FIELD(checkpoint.keep), kFree,
          "newest checkpoints kept; older ones go after a newer one is complete",
          between(1, 10'000));
  t.field(DSV_FIELD(checkpoint.async), kFree, "write while training goes on; one at a time");
  t.field(DSV_FIELD(checkpoint.verify_after_save), kFree,
          "read each checkpoint back and check its CRCs before older ones go");

  t.field(
      DSV_FIELD(resume.mode), kFree,
      "auto: from the newest valid checkpoint of the run, or from the start where there is none; "
      "required: exit 11 where there is none; never: from the start");
  t.field(DSV_FIELD(resume.allow), kFree,
          "fields that may differ from the checkpoint's configuration")
      .rule("fields with drift 'training'",
            [](const Config& c) { return allow_problem(c.resume.allow); });
  t.field(DSV_FIELD(resume.fallback), kFree,
          "when the newest checkpoint is damaged. newest_valid: the one before, loudly; strict: "
          "exit 10");

  t.field(DSV_FIELD(log.every_steps), kFree,
          "steps between records in metrics.jsonl and TensorBoard", between(1, 1e9));
  t.field(DSV_FIELD(log.tensorboard), kFree, "write TensorBoard event files");
  t.field(DSV_FIELD(log.progress), kFree, "auto: an updating bar on a terminal, lines elsewhere");
  t.field(DSV_FIELD(log.level), kFree, "least severity of messages on stderr");
  t.field(DSV_FIELD(log.all_ranks), kFree,
          "messages below warnings from all ranks, not only rank 0");
}

void add_watching(Table& t) {
  t.field(DSV_FIELD(eval.every_steps), kFree,
          "steps between measurements of the held-out loss; 0: never", between(0, kManySteps));
  t.field(DSV_FIELD(eval.max_samples), kFree, "held-out samples measured; 0: all", between(0, 1e9));
  t.field(DSV_FIELD(eval.quantiles), kFree,
          "values of t per sample, at quantiles (i + 1/2) / n of the training distribution",
          between(1, 1000));

  t.field(DSV_FIELD(sample.every_steps), kFree, "steps between generated videos; 0: never",
          between(0, kManySteps));
  t.field(DSV_FIELD(sample.prompts), kFree,
          "one video each, in turn up to count; empty: captions of held-out samples")
      .rule("at most 1024 of 10000 bytes",
            [](const Config& c) { return prompts_problem(c.sample.prompts); });
  t.field(DSV_FIELD(sample.steps), kFree, "solver steps", between(1, 10'000));
  t.field(DSV_FIELD(sample.cfg_scale), kFree, "classifier-free guidance; 1: none",
          between(0, 1000));
  t.field(DSV_FIELD(sample.count), kFree, "videos at a time", between(1, 1024));
  t.field(DSV_FIELD(sample.fps), kFree, "frames per second of the video files",
          above(0).at_most(1000));
}

void add_parallel(Table& t) {
  t.field(DSV_FIELD(parallel.dp), kFree, "ranks that share a batch; 0: all", between(0, 1e6));
  t.field(DSV_FIELD(parallel.cp), kFree,
          "ranks that share a sample; only 1: context parallelism is not built yet",
          between(1, 1e6));
}

void add_watchdog(Table& t) {
  const Range seconds = above(0).at_most(1e9);
  t.field(DSV_FIELD(watchdog.enabled), kFree,
          "end the job with exit code 21 when a rank shows no sign of life for longer than these "
          "limits");
  t.field(DSV_FIELD(watchdog.init_seconds), kFree, "start-up, until the first step begins",
          seconds);
  t.field(DSV_FIELD(watchdog.load_seconds), kFree, "reading a checkpoint", seconds);
  t.field(DSV_FIELD(watchdog.step_seconds), kFree, "between two signs of life of a training step",
          seconds);
  t.field(DSV_FIELD(watchdog.first_step_factor), kFree,
          "times step_seconds for the first step, which also warms caches and allocates",
          between(1, 1e6));
  t.field(DSV_FIELD(watchdog.save_seconds), kFree, "writing a checkpoint", seconds);
  t.field(DSV_FIELD(watchdog.sample_seconds), kFree, "held-out loss and generated videos", seconds);
}

std::vector<Field> make_fields() {
  Table table;
  add_run(table);
  add_model(table);
  add_attention(table);
  add_diffusion(table);
  add_data(table);
  add_optim(table);
  add_files(table);
  add_watching(table);
  add_parallel(table);
  add_watchdog(table);
  return table.take();
}

}  // namespace

const std::vector<Section>& sections() {
  static const std::vector<Section> kSections{
      {"run", "What runs, where, and for how long."},
      {"precision", "Number formats."},
      {"model", "The shape of the Diffusion Transformer."},
      {"attention", "What each query of self-attention attends to."},
      {"sparsity", "Dynamic sparsity: when attention may leave keys out, and which."},
      {"diffusion", "Flow matching: timesteps, shift, and weights of the loss."},
      {"data", "Shards, shapes, and batches."},
      {"optim", "AdamW, its schedule, and the average of the weights."},
      {"checkpoint", "Saving the state of training."},
      {"resume", "Going on from a checkpoint. `--resume` on the command line comes first."},
      {"log", "What is written while training runs."},
      {"eval", "The held-out loss."},
      {"sample", "Videos generated while training runs."},
      {"parallel", "How ranks share the work."},
      {"watchdog", "Seconds that each phase of a run may take."},
  };
  return kSections;
}

const std::vector<Field>& fields() {
  static const std::vector<Field> kFields = make_fields();
  return kFields;
}

const Field* find_field(std::string_view path) {
  for (const Field& field : fields()) {
    if (field.path == path) return &field;
  }
  return nullptr;
}

std::vector<std::string> keys_of(std::string_view section) {
  std::vector<std::string> keys;
  for (const Field& field : fields()) {
    const auto dot = field.path.find('.');
    if (std::string_view(field.path).substr(0, dot) == section)
      keys.push_back(field.path.substr(dot + 1));
  }
  return keys;
}

}  // namespace dsv::train
