/* Options --chat-format and --system (chat_format.h). */
#include "cli/chat_format.h"

#include <string.h>

static const char *const choices[] = { "auto", "plain", "v1", NULL };
static const int formats[] = { -1, CHAT_PLAIN, CHAT_V1 };

struct cli_option cli_chat_format_option(struct cli_chat *given) {
    return (struct cli_option){ "chat-format", 0, "NAME", CLI_CHOICE, &given->choice, .choices = choices,
                                .help = "what stands around messages. v1: User: and Assistant:, as DeepSeek LLM, MoE-16B and V2 were trained; plain: nothing; auto: what the model's chat template says, "
                                        "plain without one" };
}

struct cli_option cli_system_option(struct cli_chat *given) {
    return (struct cli_option){ "system", 0, "TEXT", CLI_STRING, &given->system, .help = "a text in front of the first message that tells the model how to answer" };
}

enum status cli_chat_style(const struct cli_chat *given, const char *folder, const struct config *config, const struct tokenizer *tokenizer, bool quiet, struct chat_style *style, struct error *error) {
    enum chat_format format = CHAT_PLAIN;
    enum status status = STATUS_OK;
    if (formats[given->choice] >= 0) {
        format = (enum chat_format)formats[given->choice];
    } else if ((status = chat_format_detect(&format, folder, config->model_type, tokenizer, error))) {
        if (status == STATUS_UNSUPPORTED) error_set(error, status, "%s; --chat-format plain continues text as it stands", error->message);
        return status;
    }
    status = chat_style_make(style, format, tokenizer, (int32_t)config->bos_token_id, error);
    if (status) return error_prefix(error, "--chat-format");
    if (style->begin >= config->vocab_size || style->end >= config->vocab_size)
        return error_set(error, STATUS_INVALID, "%s: chat format %s needs token %d of the tokenizer, expected at most %lld (the model's vocabulary)", folder, chat_format_name(format),
                         style->begin > style->end ? style->begin : style->end, (long long)config->vocab_size - 1);
    if (given->system && !chat_has_roles(style))
        return error_set(error, STATUS_INVALID, "--system: found a text, and chat format %s of this model has no place for one", chat_format_name(format));
    if (given->system && format == CHAT_V1 && strcmp(config->model_type, "deepseek_v2") != 0 && !quiet)
        cli_warn("--system: models before V2 were not trained with a system text; a part of the first message may do better");
    return STATUS_OK;
}
