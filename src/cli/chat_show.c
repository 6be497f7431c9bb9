/* Answers on standard output, part by part (chat_show.h). */
#include "cli/chat_show.h"

#include <stdio.h>
#include <unistd.h>

static void close_line(struct chat_show *show) {
    if (show->line_open) putchar('\n');
    show->line_open = false;
}

static void set_mode(struct chat_show *show, int mode) {
    if ((int)show->mode == mode) return;
    if (show->mode == SHOW_REASONING && show->terminal) fputs("\033[0m", stdout);
    close_line(show);
    show->mode = mode;
    if (mode == SHOW_REASONING) {
        if (show->terminal) fputs("\033[2m", stdout);
        puts("[thinking]");
        show->marked = true;
    } else if (mode == SHOW_CONTENT && show->marked) {
        puts("[answer]");
    }
}

static void put(struct chat_show *show, int mode, const struct chat_text *text, size_t *shown) {
    /* line ends between reasoning and answer are no part of either that one would like to see */
    if (show->marked || mode == SHOW_REASONING)
        while (show->mode != (unsigned)mode && *shown < text->size && text->text[*shown] == '\n') ++*shown;
    if (*shown >= text->size) return;
    set_mode(show, mode);
    fwrite(text->text + *shown, 1, text->size - *shown, stdout);
    *shown = text->size;
    show->line_open = text->text[text->size - 1] != '\n';
}

void chat_show_begin(struct chat_show *show, const struct chat_parser *parser) {
    *show = (struct chat_show){.terminal = isatty(STDOUT_FILENO),
                               .reasoning = parser->reasoning.size,
                               .content = parser->content.size,
                               .marked = parser->reasoning.size > 0};
}

void chat_show_text(struct chat_show *show, const struct chat_parser *parser) {
    /* what seemed an answer was reasoning, whose beginning was not marked */
    if (parser->content.size < show->content) {
        show->reasoning = show->content;
        show->content = 0;
        show->marked = true;
        set_mode(show, SHOW_NOTHING);
    }
    put(show, SHOW_REASONING, &parser->reasoning, &show->reasoning);
    put(show, SHOW_CONTENT, &parser->content, &show->content);
}

void chat_show_call(const struct chat_parsed_call *call) {
    fputs("[call] ", stdout);
    fwrite(call->name.text, 1, call->name.size, stdout);
    putchar('(');
    fwrite(call->arguments.text, 1, call->arguments.size, stdout);
    puts(call->complete ? ")" : " ... (cut off)");
}

void chat_show_end(struct chat_show *show, const struct chat_parser *parser) {
    chat_show_text(show, parser);
    if (parser->call_count || show->mode == SHOW_REASONING) set_mode(show, SHOW_NOTHING);
    for (int64_t i = 0; i < parser->call_count; i++) chat_show_call(&parser->calls[i]);
}
