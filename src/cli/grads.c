/* deepseek grads: losses and the gradient of every parameter, into a safetensors file. One of the doors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/door.h"
#include "cli/machine.h"
#include "cli/tokens.h"
#include "io/safetensors.h"
#include "train/trainer.h"

static struct safetensors_source number(const char *name, float *place, double value) {
    *place = (float)value;
    return (struct safetensors_source){.name = name, .dtype = DTYPE_F32, .rank = 1, .shape = {1}, .data = place};
}

/* The losses, unweighted but for `loss`, and a gradient per parameter, zeros where none arrived. */
static enum status write_gradients(const struct model *model, const struct objective *objective,
                                   const struct trainer_result *result, const char *path, struct error *error) {
    float values[2 + LOSS_PARTS];
    char names[LOSS_PARTS][64];
    int64_t count = 0;
    struct safetensors_source *sources = calloc((size_t)model->parameter_count + 2 + LOSS_PARTS, sizeof *sources);
    if (!sources)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a list of %d tensors", model->parameter_count);
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (!p->grad) continue;
        if (!p->grad_written) memset(p->grad, 0, (size_t)p->count * sizeof *p->grad);
        sources[count] = parameter_values(p);
        sources[count++].data = p->grad;
    }
    sources[count++] = number("loss", &values[0], result->loss);
    sources[count++] = number("loss.main", &values[1], result->main);
    for (int p = 0; p < LOSS_PARTS; p++) {
        if (objective->weights[p] == 0) continue; /* not computed */
        snprintf(names[p], sizeof names[p], "loss.%s", loss_kinds[p].name);
        sources[count++] = number(names[p], &values[2 + p], result->parts[p]);
    }
    enum status status = safetensors_write(path, sources, count, NULL, NULL, error);
    free(sources);
    return status;
}

static enum status run(const struct door_request *request, struct cli_machine *machine, struct error *error) {
    struct settings settings = {0};
    struct cli_tokens tokens = { 0 };
    struct model *model = NULL;
    struct trainer *trainer = NULL;
    int32_t *targets = NULL;
    int64_t vocab;
    struct trainer_result result;
    enum status status = door_begin(request, &settings, &vocab, error);
    if (!status) status = cli_tokens_load(&tokens, request->tokens_path, vocab, error);
    if (!status) status = door_targets(&tokens, request->tokens_path, &targets, error);
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_TRAINING, request->quiet, error);
    const struct objective objective = settings_objective(&settings);
    if (!status)
        status = trainer_create(&trainer, model, NULL, &objective, door_micro_batch(&settings, tokens.count),
                                settings.leaf_size, tokens.longest, error);
    if (!status) status = trainer_gradients(trainer, tokens.ids, targets, tokens.count, tokens.longest, &result, error);
    if (!status) status = write_gradients(model, &trainer->objective, &result, request->out_path, error);
    trainer_destroy(trainer);
    model_destroy(model);
    free(targets);
    cli_tokens_free(&tokens);
    return status;
}

int command_grads(int argc, char **argv) {
    static const char about[] =
        "Computes the loss of some token arrays of one length and its gradient with respect to every parameter. Writes "
        "F32 tensors: `loss` [1] the weighted "
        "total, `loss.main` [1] the mean over all positions that have a next token, `loss.mtp`, `loss.balance_expert` "
        "and so on [1] the unweighted parts that the settings give "
        "a weight, and one gradient per parameter under the checkpoint's name. "
        "The settings may hold `micro_batch_size` and `leaf_size`, too, as a training config does (all sequences at "
        "once without).";
    static const char examples[] = "deepseek grads MODEL --tokens tokens.json -o grads.safetensors\n";
    return door_run(argc, argv, "grads", about, examples, false, run);
}
