/* The machine that a command runs on: kernels, threads, compute type, and the options that say so. */
#ifndef DEEPSEEK_CLI_MACHINE_H
#define DEEPSEEK_CLI_MACHINE_H

#include "cli/usage.h"
#include "infer/infer.h"
#include "kernels/kernels.h"
#include "model/model.h"

struct cli_machine {
    enum isa isa;
    const struct kernels *kernels;
    struct pool *pool;
    enum compute compute;  /* COMPUTE_COUNT: not given, the checkpoint's own (or the training config's) */
    enum cache_type cache; /* of what sequences keep; CACHE_COUNT: the compute type */
    bool expanded_prefill; /* model.h */
    bool mtp;              /* open models with their MTP modules (inference): set by --draft, or by the command */
    int64_t threads;       /* option --threads, 0: every processor */
    int compute_choice;    /* option --compute */
    bool takes_cache;      /* has the command an option --cache-type? */
    int cache_choice;      /* it */
    int prefill_choice;    /* option --prefill */
    const char *expert_cache_text;   /* option --expert-cache */
    uint64_t expert_cache; /* its bytes; 0: not given */
    const char *draft_text;   /* option --draft: auto, off or a number */
    enum draft_mode draft;
    int draft_depths;
};

struct cli_option cli_threads_option(struct cli_machine *machine);
/* `fallback` is the default in words: "fp32", "the checkpoint's type". */
struct cli_option cli_compute_option(struct cli_machine *machine, const char *fallback);
struct cli_option cli_cache_option(struct cli_machine *machine);
struct cli_option cli_prefill_option(struct cli_machine *machine);
struct cli_option cli_expert_cache_option(struct cli_machine *machine);
struct cli_option cli_draft_option(struct cli_machine *machine);
/* What --draft says, of an engine for a model that cli_model_open opened. */
enum status cli_engine_draft(struct engine *engine, const struct cli_machine *machine, struct error *error);
/* After cli_parse. `fallback`: machine->compute where --compute was not given. */
enum status cli_machine_open(struct cli_machine *machine, enum compute fallback, struct error *error);
void cli_machine_close(struct cli_machine *machine);

/* Can a model of this config have what --cache-type, --prefill and --draft ask for? Asked before any work; the message
 * names the flag. */
enum status cli_machine_check(const struct cli_machine *machine, const struct config *config, struct error *error);
/* Opens a model folder on the machine, and passes its warnings on unless quiet. */
enum status cli_model_open(struct model **model, const char *folder, const struct cli_machine *machine,
                           enum model_use use, bool quiet, struct error *error);

#endif
