/* deepseek COMMAND ...: the table of commands, and what surrounds every run: signals, the check of standard output. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "deepseek.h"
#include "cli/cli.h"
#include "cli/help.h"
#include "cli/names.h"

static const struct cli_command commands[] = {
    { "train", "train a model on text, from scratch or from a checkpoint", command_train },
    { "generate", "continue a text", command_generate },
    { "chat", "a conversation, typed line by line", command_chat },
    { "eval", "loss, perplexity and bits per byte of a model on a text", command_eval },
    { "bench", "measure prefill and decoding against the limits of this machine", command_bench },
    { "info", "parameters, cache, FLOPs and memory of a model or a config.json", command_info },
    { "data", "generate text to train on", command_data },
    { "quantize", "write a model folder in FP8, or back in BF16", command_quantize },
    { "tokenize", "text to token ids and back, and tokenizers from text", command_tokenize },
    { "logits", "write the logits of every position of token arrays", command_logits },
    { "grads", "write losses and every parameter's gradient", command_grads },
    { "steps", "take optimizer steps on given tokens and write the parameters after them", command_steps },
    { 0 },
};

static const struct cli_command *find_command(const char *name) {
    for (const struct cli_command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static const char about[] =
    "Trains and runs DeepSeek models. A model is a Hugging Face folder (config.json, *.safetensors, tokenizer.json).";

static int unknown_command(const char *name) {
    bool option = name[0] == '-';
    struct nearest nearest;
    nearest_begin(&nearest, name);
    for (const struct cli_command *c = commands; c->name && !option; c++) nearest_try(&nearest, c->name);
    nearest_try(&nearest, option ? "--help" : "help");
    nearest_try(&nearest, "--version");
    if (option)
        return nearest.name ? cli_wrong("unknown option %s before a command, did you mean %s?", name, nearest.name)
                            : cli_wrong("unknown option %s before a command", name);
    if (nearest.name) return cli_wrong("unknown command `%s`, did you mean `%s`?", name, nearest.name);
    return cli_wrong("unknown command `%s`", name);
}

/* `deepseek help [COMMAND [NAME]]` */
static int run_help(int argc, char **argv) {
    if (argc < 3 || strcmp(argv[2], "help") == 0 || strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0) {
        help_print_commands(stdout, NULL, about, commands, HELP_TEXT);
        return CLI_DONE;
    }
    const struct cli_command *command = find_command(argv[2]);
    char help[] = "--help", *arguments[] = { argv[2], argc > 3 ? argv[3] : help, help, NULL };
    return command ? command->run(argc > 3 ? 3 : 2, arguments) : unknown_command(argv[2]);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        help_print_commands(stderr, NULL, about, commands, HELP_TEXT);
        return CLI_WRONG_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("deepseek %s\n", DS_VERSION_STRING);
        return CLI_DONE;
    }
    if (strcmp(name, "help") == 0) return run_help(argc, argv);
    bool formatted = strncmp(name, "--help=", 7) == 0;
    if (formatted || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        enum help_format format = help_format_named(formatted ? name + 7 : NULL);
        if (format == HELP_FORMATS) return CLI_WRONG_USAGE;
        help_print_commands(stdout, NULL, about, commands, format);
        return CLI_DONE;
    }
    const struct cli_command *command = find_command(name);
    return command ? command->run(argc - 1, argv + 1) : unknown_command(name);
}

int main(int argc, char **argv) {
    /* A descriptor that was closed must not become the number of a file that a command opens. These refuse what is
     * asked of them. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            int opened = open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
            if (opened != fd && opened >= 0) close(opened);
        }
    signal(SIGPIPE, SIG_IGN);   /* a closed pipe and a file size limit are failed writes, reported as such */
    signal(SIGXFSZ, SIG_IGN);

    int code = run(argc, argv);
    if (!cli_output_flush()) {
        if (cli_output_errno() != EPIPE)
            fprintf(stderr, "deepseek: standard output: %s\n", strerror(cli_output_errno()));
        if (code == CLI_DONE) code = CLI_FAILED;
    }
    if (fclose(stdout) && errno != EPIPE && errno != EBADF && code == CLI_DONE) {
        fprintf(stderr, "deepseek: standard output: %s\n", strerror(errno));
        code = CLI_FAILED;
    }
    return code;
}
