/* Continues a prompt, twice: once with one call that streams, and once by hand, token by token.
 *
 *     cc -std=c11 -O2 examples/generate.c $(pkg-config --cflags --libs deepseek) -o example-generate
 *     ./example-generate path/to/model "Once upon a time"
 *
 * A static program: pkg-config --static, and -Wl,-Bstatic -ldeepseek -Wl,-Bdynamic in place of -ldeepseek. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deepseek.h>

static ds_error error;

/* Every call that can fail goes through this. */
static void check(ds_status status) {
    if (!status) return;
    fprintf(stderr, "%s: %s\n", ds_status_name(status), error.message);
    exit(1);
}

static int print_text(void *context, const char *text, size_t size) {
    fwrite(text, 1, size, context);
    fflush(context);
    return 1;   /* 0 would end the text */
}

/* All in one: tokens, cache, sampling and text are the library's. */
static void generate_at_once(ds_model *model, const char *prompt) {
    ds_sampling sampling = { .size = sizeof sampling };
    check(ds_model_sampling(model, &sampling, &error));   /* the folder's generation_config.json */
    sampling.temperature = 0.8;
    sampling.top_p = 0.95;
    sampling.seed = 7;

    const char *stops[] = { "\n\n" };
    ds_generate_options options = { .size = sizeof options };
    options.sampling = &sampling;
    options.max_tokens = 60;
    options.stops = stops;
    options.stop_count = 1;
    options.on_text = print_text;
    options.context = stdout;

    printf("--- ds_generate\n%s", prompt);
    check(ds_generate(model, prompt, strlen(prompt), &options, NULL, &error));
    printf("\n");
}

/* The same by hand, greedily: feed tokens, look at the logits, choose, feed what was chosen. */
static void generate_by_hand(ds_model *model, const char *prompt) {
    enum { NEW_TOKENS = 60 };
    const ds_tokenizer *tokenizer = ds_model_tokenizer(model);
    ds_model_info info = { .size = sizeof info };
    check(ds_model_get_info(model, &info, &error));

    int32_t *prompt_ids;
    int64_t count;
    check(ds_tokenize(tokenizer, prompt, strlen(prompt), DS_TOKENIZE_BEGIN, &prompt_ids, &count, &error));
    if (count == 0) {
        fprintf(stderr, "an empty prompt\n");
        exit(1);
    }
    int32_t *ids = malloc((size_t)(count + NEW_TOKENS) * sizeof *ids);
    float *logits = malloc((size_t)info.vocab_size * sizeof *logits);   /* one row: those of the last token */
    if (!ids || !logits) exit(1);
    memcpy(ids, prompt_ids, (size_t)count * sizeof *ids);
    ds_free(prompt_ids);

    ds_sampling greedy = { .size = sizeof greedy };
    check(ds_model_sampling(model, &greedy, &error));
    greedy.temperature = 0;

    const int64_t prompt_count = count, end = count + NEW_TOKENS < info.max_position_embeddings
                                                  ? count + NEW_TOKENS
                                                  : info.max_position_embeddings;
    ds_sequence *sequence;
    check(ds_sequence_create(&sequence, model, end, &error));   /* room for the keys and values of so many tokens */
    while (count < end) {
        /* first the whole prompt, then one token at a time */
        const int64_t fed = ds_sequence_length(sequence);
        const ds_input input = { sequence, ids + fed, count - fed, logits, 0 };
        check(ds_feed(model, &input, 1, &error));
        check(ds_sample(model, logits, &greedy, ids, count, prompt_count, 0, &ids[count], NULL, &error));
        if (ds_model_is_eos(model, ids[count])) break;
        count++;
    }

    char *text;
    size_t size;
    check(ds_detokenize(tokenizer, ids, count, DS_DETOKENIZE_SKIP_SPECIAL, &text, &size, &error));
    printf("--- ds_feed, ds_sample\n%.*s\n", (int)size, text);
    ds_free(text);
    ds_sequence_free(sequence);
    free(logits);
    free(ids);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [PROMPT]\n", argv[0]);
        return 2;
    }
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    ds_model *model;
    check(ds_model_load(&model, argv[1], NULL, &error));
    for (int i = 0; ds_model_warning(model, i); i++) fprintf(stderr, "warning: %s\n", ds_model_warning(model, i));
    if (!ds_model_tokenizer(model)) {
        fprintf(stderr, "%s has no tokenizer.json\n", argv[1]);
        return 1;
    }
    generate_at_once(model, prompt);
    generate_by_hand(model, prompt);
    ds_model_free(model);
    return 0;
}
