/* The machine that a command runs on (machine.h). */
#include "cli/machine.h"

#include <string.h>

#include "cli/cli.h"
#include "model/blocks.h"

#define CHOICE_NOT_GIVEN (-1)

struct cli_option cli_threads_option(struct cli_machine *machine) {
    return (struct cli_option){"threads",
                               0,
                               "N",
                               CLI_INTEGER,
                               &machine->threads,
                               .minimum = 0,
                               .maximum = 1024,
                               .fallback = "every processor",
                               .help = "threads to compute with; no result depends on their number"};
}

struct cli_option cli_compute_option(struct cli_machine *machine, const char *fallback) {
    machine->compute_choice = CHOICE_NOT_GIVEN;
    return (struct cli_option){"compute",
                               0,
                               "TYPE",
                               CLI_CHOICE,
                               &machine->compute_choice,
                               .choices = precision_names,
                               .fallback = fallback,
                               .help = "type of the matrix products: fp32; bf16 with fp32 sums; fp8, those of an FP8 "
                                       "checkpoint with activations rounded to E4M3 as it was trained"};
}

struct cli_option cli_cache_option(struct cli_machine *machine) {
    machine->takes_cache = true;
    machine->cache_choice = CHOICE_NOT_GIVEN;
    return (struct cli_option){"cache-type",
                               0,
                               "TYPE",
                               CLI_CHOICE,
                               &machine->cache_choice,
                               .choices = precision_names,
                               .fallback = "the type of --compute",
                               .help = "type of what is kept of earlier tokens: fp32, bf16, or fp8 (multi-head latent "
                                       "attention alone). A smaller one takes less memory and time, and rounds"};
}

enum { PREFILL_ABSORBED, PREFILL_EXPANDED };
static const char *const prefill_names[] = { "absorbed", "expanded", NULL };

struct cli_option cli_prefill_option(struct cli_machine *machine) {
    machine->prefill_choice = PREFILL_ABSORBED;
    return (struct cli_option){
        "prefill",
        0,
        "FORM",
        CLI_CHOICE,
        &machine->prefill_choice,
        .choices = prefill_names,
        .help = "form of multi-head latent attention for tokens that come together. absorbed: that of decoding, so "
                "that logits are the same bits however a text is cut. "
                "expanded: less work for long prompts, but equal only to rounding, and other bits for other cuts"};
}

struct cli_option cli_expert_cache_option(struct cli_machine *machine) {
    return (struct cli_option){"expert-cache",
                               0,
                               "SIZE",
                               CLI_STRING,
                               &machine->expert_cache_text,
                               .fallback = "none where the weights fit into memory, else most of it",
                               .help = "leave routed experts in the file, and read them into a cache of this size (as "
                                       "in 8G, 500M) when tokens are sent to them. No result depends on it"};
}

struct cli_option cli_draft_option(struct cli_machine *machine) {
    machine->draft_text = "auto";
    return (struct cli_option){
        "draft",
        0,
        "auto|off|N",
        CLI_STRING,
        &machine->draft_text,
        .help = "modules of multi-token prediction draft what comes next, and the model verifies it in the same pass. "
                "auto: as long as that is measured to be faster; off: never, and the modules "
                "are not loaded; N: always, by N modules. No text depends on it"};
}

static enum status read_draft(struct cli_machine *machine, struct error *error) {
    int64_t depths = 0;
    if (!machine->draft_text) return STATUS_OK;
    machine->draft = strcmp(machine->draft_text, "auto") == 0  ? DRAFT_AUTO
                     : strcmp(machine->draft_text, "off") == 0 ? DRAFT_OFF
                                                               : DRAFT_ALWAYS;
    if (machine->draft == DRAFT_ALWAYS &&
        !cli_parse_integer("--draft", machine->draft_text, 1, CONFIG_MAX_NEXTN, &depths, error))
        return error_set(error, STATUS_INVALID, "--draft: found `%s`, expected auto, off or a number from 1 to %d",
                         machine->draft_text, CONFIG_MAX_NEXTN);
    machine->draft_depths = (int)depths;
    machine->mtp = machine->draft == DRAFT_ALWAYS || (machine->draft == DRAFT_AUTO && !machine->expanded_prefill);
    return STATUS_OK;
}

enum status cli_engine_draft(struct engine *engine, const struct cli_machine *machine, struct error *error) {
    return engine_set_draft(engine, machine->draft, machine->draft_depths, error);
}

enum status cli_machine_check(const struct cli_machine *machine, const struct config *config, struct error *error) {
    if (machine->draft_depths > config->num_nextn_predict_layers)
        return error_set(
            error, STATUS_INVALID,
            "--draft: found %d, expected at most %lld, the modules of multi-token prediction that this model has",
            machine->draft_depths, (long long)config->num_nextn_predict_layers);
    if (machine->draft == DRAFT_ALWAYS && machine->expanded_prefill)
        return error_set(error, STATUS_INVALID,
                         "--draft: found %d, expected off or auto with --prefill expanded, whose passes of several "
                         "tokens have other bits than those of one",
                         machine->draft_depths);
    if (machine->expert_cache && !config_router(config))
        return error_set(error, STATUS_INVALID, "--expert-cache: this model (%s) has no routed experts",
                         config->model_type);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        const struct block *block = attention_blocks[config->layers[i].attention];
        if (machine->cache != CACHE_COUNT && !block->cache_bytes(config, &config->layers[i], machine->cache))
            return error_set(error, STATUS_INVALID,
                             "--cache-type: found fp8, expected fp32 or bf16: layer %lld of this model (%s) has no "
                             "multi-head latent attention",
                             (long long)i, config->model_type);
        if (machine->expanded_prefill && !block->set_expanded_prefill)
            return error_set(error, STATUS_INVALID,
                             "--prefill: found expanded, expected absorbed: layer %lld of this model (%s) has no "
                             "multi-head latent attention",
                             (long long)i, config->model_type);
    }
    return STATUS_OK;
}

enum status cli_machine_open(struct cli_machine *machine, enum compute fallback, struct error *error) {
    machine->compute = machine->compute_choice == CHOICE_NOT_GIVEN ? fallback : (enum compute)machine->compute_choice;
    machine->cache = machine->takes_cache && machine->cache_choice != CHOICE_NOT_GIVEN
                         ? (enum cache_type)machine->cache_choice
                         : CACHE_COUNT;
    machine->expanded_prefill = machine->prefill_choice == PREFILL_EXPANDED;
    double bytes;
    if (machine->expert_cache_text &&
        !cli_parse_size("--expert-cache", machine->expert_cache_text, 1e15, &bytes, error))
        return STATUS_INVALID;
    machine->expert_cache = machine->expert_cache_text ? (uint64_t)bytes : 0;
    enum status status = read_draft(machine, error);
    if (!status) status = isa_select(&machine->isa, error);
    if (status) return status;
    machine->kernels = kernels_for(machine->isa);
    return pool_create(&machine->pool, (int)machine->threads, error);
}

void cli_machine_close(struct cli_machine *machine) {
    pool_destroy(machine->pool);
    machine->pool = NULL;
}

enum status cli_model_open(struct model **model, const char *folder, const struct cli_machine *machine,
                           enum model_use use, bool quiet, struct error *error) {
    struct model_options options = {.use = use,
                                    .compute = machine->compute,
                                    .cache = machine->cache,
                                    .mtp = machine->mtp,
                                    .expert_cache = machine->expert_cache,
                                    .expanded_prefill = machine->expanded_prefill};
    enum status status = model_open(model, folder, machine->kernels, machine->pool, &options, error);
    /* a folder whose config names modules that it lacks is of use without them */
    if (status && options.mtp && machine->draft == DRAFT_AUTO) {
        const struct error with_modules = *error;
        options.mtp = false;
        status = model_open(model, folder, machine->kernels, machine->pool, &options, error);
        if (!status && !quiet) cli_warn("nothing is drafted: %s", with_modules.message);
    }
    if (status || quiet) return status;
    for (int i = 0; i < (*model)->config.warning_count; i++) cli_warn("%s", (*model)->config.warnings[i]);
    for (int i = 0; i < (*model)->warning_count; i++) cli_warn("%s", (*model)->warnings[i]);
    return STATUS_OK;
}
