/* Options --chat-format and --system (chat_format.h). */
#include "cli/chat_format.h"

#include "cli/console.h"

static const char *const choices[] = { "auto", "plain", "v1", "v3", "r1", "r1-0528", "v3.1", NULL };
static const int formats[] = { -1, CHAT_PLAIN, CHAT_V1, CHAT_V3, CHAT_R1, CHAT_R1_0528, CHAT_V3_1 };

struct cli_option cli_chat_format_option(struct cli_chat *given) {
    return (struct cli_option){
        "chat-format",
        0,
        "NAME",
        CLI_CHOICE,
        &given->choice,
        .choices = choices,
        .help = "what stands around messages. v1: User: and Assistant:, as DeepSeek LLM, MoE-16B and V2 were trained; "
                "v3, r1, r1-0528, v3.1: the markers of V2.5 and V3, and of the models that reason; plain: nothing; "
                "auto: what the model's chat template says, "
                "plain without one"};
}

static const char *const switches[] = { "auto", "on", "off", NULL };
struct cli_option cli_thinking_option(struct cli_chat *given) {
    return (struct cli_option){"thinking",
                               0,
                               "WHETHER",
                               CLI_CHOICE,
                               &given->thinking,
                               .choices = switches,
                               .help = "is the model to reason before it answers? For models that can do either "
                                       "(v3.1); auto: what its template does, which is off"};
}

struct cli_option cli_system_option(struct cli_chat *given) {
    return (struct cli_option){
        "system",       0,
        "TEXT",         CLI_STRING,
        &given->system, .help = "a text in front of the first message that tells the model how to answer"};
}

enum status cli_chat_style(const struct cli_chat *given, const char *folder, const struct config *config,
                           const struct tokenizer *tokenizer, bool quiet, struct chat_style *style,
                           struct error *error) {
    enum chat_format format = CHAT_PLAIN;
    enum status status = STATUS_OK;
    if (formats[given->choice] >= 0) {
        format = (enum chat_format)formats[given->choice];
    } else if ((status = chat_format_detect(&format, folder, tokenizer, error))) {
        if (status == STATUS_UNSUPPORTED)
            error_set(error, status, "%s; --chat-format plain continues text as it stands", error->message);
        return status;
    }
    status = chat_style_make(style, format, tokenizer, (int32_t)config->bos_token_id, error);
    if (status) return error_prefix(error, "--chat-format");
    int32_t largest = style->begin > style->end ? style->begin : style->end;
    for (int i = 0; i < CHAT_TOKENS; i++)
        if (style->tokens[i] > largest) largest = style->tokens[i];
    if (largest >= config->vocab_size)
        return error_set(
            error, STATUS_INVALID,
            "%s: chat format %s needs token %d of the tokenizer, expected at most %lld (the model's vocabulary)",
            folder, chat_format_name(format), largest, (long long)config->vocab_size - 1);
    if (given->thinking && !chat_has_switch(style))
        return error_set(error, STATUS_INVALID, "--thinking: chat format %s of this model %s", chat_format_name(format),
                         chat_has_reasoning(style) ? "always reasons" : "does not reason");
    style->thinking = given->thinking == 1;
    if (given->system && !chat_has_roles(style))
        return error_set(error, STATUS_INVALID,
                         "--system: found a text, and chat format %s of this model has no place for one",
                         chat_format_name(format));
    if (given->system && format == CHAT_V1 && !config->family->system_text && !quiet)
        cli_warn("--system: models before V2 were not trained with a system text; a part of the first message may do "
                 "better");
    if (given->system && format == CHAT_R1 && !quiet)
        cli_warn("--system: R1 was not trained with a system text; a part of the message may do better");
    return STATUS_OK;
}
