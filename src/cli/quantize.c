/* deepseek quantize: a model folder in FP8, and back in BF16. */
#include "model/quantize.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"

struct request {
    const char *folder, *out;
    int to;                    /* index into formats */
    bool quiet;
};

static const char *const names[] = { "fp8", "bf16", NULL };
static const enum format_row formats[] = { FORMAT_FP8, FORMAT_BF16 };

struct watching { struct cli_progress progress; bool begun, quiet; };

static bool told(void *context, double done, double total) {
    struct watching *watching = context;
    if (!watching->begun) cli_progress_begin(&watching->progress, "quantize", "bytes", total, watching->quiet);
    watching->begun = true;
    cli_progress_update(&watching->progress, done);
    return !cli_interrupted();
}

static enum status run(const struct request *request, struct pool *pool, struct error *error) {
    struct watching watching = { .quiet = request->quiet };
    const struct quantize_watch watch = { &watching, told };
    struct quantize_counts counts;
    const double began = clock_seconds();
    char old_bytes[CLI_FIGURE], new_bytes[CLI_FIGURE], figure[CLI_FIGURE];
    enum status status = model_check_folder(request->folder, error);
    if (!status)
        status = model_quantize(request->folder, request->out, &number_formats[formats[request->to]], pool, &watch,
                                &counts, error);
    if (watching.begun) cli_progress_end(&watching.progress);
    if (status) return status;
    printf("%s matrices %s FP8 with a scale for each block of 128 x 128, %s tensors in all\n",
           cli_format_grouped(figure, counts.matrices), formats[request->to] == FORMAT_BF16 ? "out of" : "in",
           cli_format_grouped(new_bytes, counts.tensors));
    printf("%s of weights, %s before\n", cli_format_bytes(new_bytes, (double)counts.new_bytes),
           cli_format_bytes(old_bytes, (double)counts.old_bytes));
    if (cli_output_flush() && !request->quiet)
        cli_note("wrote %s in %s", request->out, cli_format_duration(figure, clock_seconds() - began));
    return STATUS_OK;
}

int command_quantize(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        {"to", 0, "TYPE", CLI_CHOICE, &request.to, .choices = names, .required = true,
         .help = "fp8: the matrices of attention, FFN and experts in E4M3 with a scale for each block of 128 x 128, as "
                 "DeepSeek-V3 is published, the rest in bf16; bf16: such a folder, or one in fp32 or fp16, in bf16"},
        {"out", 'o', "DIR", CLI_STRING, &request.out, .required = true,
         .help = "the new model folder: missing, or empty"},
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "quantize",
        .about = "Writes a model folder in another format of weights: FP8 in the layout of DeepSeek-V3's checkpoints, "
                 "or back in BF16. The model is read and written tensor by tensor, so it may be larger than memory; "
                 "the new folder is complete or not there. The same bytes for any number of threads.",
        .examples = "deepseek quantize MODEL --to fp8 --out MODEL-fp8\n"
                    "# the way back: code x scale, rounded to bf16\n"
                    "deepseek quantize MODEL-fp8 --to bf16 --out MODEL-bf16\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    cli_catch_interrupts();
    struct pool *pool = NULL;
    enum status status = pool_create(&pool, (int)machine.threads, &error);
    if (!status) status = run(&request, pool, &error);
    pool_destroy(pool);
    return status ? cli_fail(&error) : CLI_DONE;
}
