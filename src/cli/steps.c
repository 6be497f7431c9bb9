/* deepseek steps: optimizer steps on given tokens, and the parameters after them, into a safetensors file. One of the
 * doors. */
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/door.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/tokens.h"
#include "io/safetensors.h"
#include "train/trainer.h"

/* `losses` [steps], each before its update, and the parameters after the last one. */
static enum status write_parameters(const struct model *model, const float *losses, int64_t steps, const char *path,
                                    struct error *error) {
    int64_t count = model->parameter_count;
    struct safetensors_source *sources = calloc((size_t)count + 1, sizeof *sources);
    if (!sources) return error_set(error, STATUS_NO_MEMORY, "no memory for a list of %lld tensors", (long long)count);
    for (int64_t i = 0; i < count; i++) sources[i] = parameter_values(model->parameters[i]);
    sources[count] = (struct safetensors_source){
        .name = "losses", .dtype = DTYPE_F32, .rank = 1, .shape = {steps}, .data = losses};
    enum status status = safetensors_write(path, sources, count + 1, NULL, NULL, error);
    free(sources);
    return status;
}

static enum status take_steps(struct trainer *trainer, const struct door_request *request,
                              const struct settings *settings, const struct cli_tokens *steps, int64_t count,
                              float *losses, struct error *error) {
    struct cli_progress progress;
    enum status status = STATUS_OK;
    trainer->learning_rate = settings->optimizer.learning_rate;
    cli_progress_begin(&progress, "steps", "steps", (double)count, request->quiet);
    for (int64_t s = 0; s < count && !status; s++) {
        int32_t *targets = NULL;
        struct trainer_result result;
        status = door_targets(&steps[s], request->tokens_path, &targets, error);
        if (!status)
            status = trainer_step(trainer, steps[s].ids, targets, steps[s].count, steps[s].longest, &result, error);
        if (!status && cli_interrupted())
            status = error_set(error, STATUS_INTERRUPTED, "interrupted, nothing was written");
        if (status) error_prefix(error, "step %lld", (long long)s + 1);
        else losses[s] = (float)result.loss;
        free(targets);
        cli_progress_update(&progress, (double)s + 1);
    }
    cli_progress_end(&progress);
    return status;
}

static enum status run(const struct door_request *request, struct cli_machine *machine, struct error *error) {
    struct settings settings = {0};
    struct cli_tokens *steps = NULL;
    struct model *model = NULL;
    struct trainer *trainer = NULL;
    float *losses = NULL;
    int64_t count = 0, vocab, sequences = 1, length = 1;
    enum status status = door_begin(request, &settings, &vocab, error);
    if (!status) status = cli_tokens_load_steps(&steps, &count, request->tokens_path, vocab, error);
    for (int64_t s = 0; s < count; s++) {
        if (steps[s].count > sequences) sequences = steps[s].count;
        if (steps[s].longest > length) length = steps[s].longest;
    }
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_TRAINING, request->quiet, error);
    struct optimizer_settings optimizer = settings_optimizer(&settings);
    const struct objective objective = settings_objective(&settings);
    if (!status)
        status = trainer_create(&trainer, model, &optimizer, &objective, door_micro_batch(&settings, sequences),
                                settings.leaf_size, length, error);
    if (!status && !(losses = calloc((size_t)count, sizeof *losses)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for %lld losses", (long long)count);
    if (!status) status = take_steps(trainer, request, &settings, steps, count, losses, error);
    if (!status) status = write_parameters(model, losses, count, request->out_path, error);
    free(losses);
    trainer_destroy(trainer);
    model_destroy(model);
    for (int64_t s = 0; s < count; s++) cli_tokens_free(&steps[s]);
    free(steps);
    return status;
}

int command_steps(int argc, char **argv) {
    static const char about[] =
        "Takes one optimizer step per batch of the given tokens, at a constant learning rate, and writes F32 tensors: "
        "`losses` [steps], each before its update, and "
        "the parameters after the last step under the checkpoint's names. The settings hold `optimizer` (name, "
        "learning_rate, beta1, beta2, eps, weight_decay, "
        "clip_grad_norm), `loss`, `bias_update_speed`, by which the biases of V3's gates move after each step, and "
        "`micro_batch_size` and `leaf_size` as a training config has them (all sequences at once without).";
    static const char examples[] =
        "deepseek steps MODEL --tokens steps.json --settings adamw.json -o after.safetensors\n";
    return door_run(argc, argv, "steps", about, examples, true, run);
}
