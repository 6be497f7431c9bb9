/* Trains a very small model on the bytes of a text, from scratch; saves it as a model folder, opens that again and lets
 * it write.
 *
 *     cc -std=c11 -O2 examples/train.c $(pkg-config --cflags --libs deepseek) -o example-train
 *     ./example-train data/tinyshakespeare.txt tiny-model 300
 *
 * The folder is an ordinary one: `deepseek generate tiny-model -p 'The '` and transformers read it too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deepseek.h>

enum { BATCH = 16, LENGTH = 64 };   /* sequences of a step, tokens of a sequence */

static ds_error error;

/* Every call that can fail goes through this. */
static void check(ds_status status) {
    if (!status) return;
    fprintf(stderr, "%s: %s\n", ds_status_name(status), error.message);
    exit(1);
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    *size = 0;
    for (size_t room = 0, got = 1; file && got > 0; *size += got) {
        if (*size == room && !(text = realloc(text, room = room ? 2 * room : 1 << 16))) break;
        got = fread(text + *size, 1, room - *size, file);
    }
    if (!file || !text || ferror(file)) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return text;
}

/* A model of 80 K parameters: an official shape is nothing but other numbers here. */
static ds_trainer *create_trainer(const ds_tokenizer *tokenizer, int steps) {
    char config[1024];
    const int size = snprintf(config, sizeof config,
                              "{\"model_type\": \"llama\", \"hidden_size\": 48, \"intermediate_size\": 128, "
                              "\"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
                              " \"num_key_value_heads\": 4, \"rms_norm_eps\": 1e-6,"
                              " \"train\": {\"steps\": %d, \"sequence_length\": %d, \"batch_size\": %d, \"optimizer\": "
                              "{\"learning_rate\": 3e-3}}}",
                              steps, LENGTH, BATCH);
    ds_trainer_options options = { .size = sizeof options };
    options.tokenizer = tokenizer;   /* gives the size of the vocabulary, and is saved with the model */
    ds_trainer *trainer;
    check(ds_trainer_create(&trainer, config, (size_t)size, &options, &error));
    return trainer;
}

/* One batch: windows at random places of the text. A target is the token that follows. */
static void fill_batch(const int32_t *ids, int64_t count, unsigned *seed, int32_t *inputs, int32_t *targets) {
    for (int b = 0; b < BATCH; b++) {
        *seed = *seed * 1664525u + 1013904223u;
        const int64_t begin = (int64_t)(*seed >> 8) % (count - LENGTH);
        memcpy(inputs + b * LENGTH, ids + begin, LENGTH * sizeof *inputs);
        memcpy(targets + b * LENGTH, ids + begin + 1, LENGTH * sizeof *targets);
    }
}

static int print_text(void *context, const char *text, size_t size) {
    fwrite(text, 1, size, context);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s TEXT FOLDER [STEPS]\n", argv[0]);
        return 2;
    }
    const int steps = argc > 3 ? atoi(argv[3]) : 300;

    size_t size;
    char *text = read_file(argv[1], &size);
    ds_tokenizer *tokenizer;
    int32_t *ids;
    int64_t count;
    check(ds_tokenizer_bytes(&tokenizer, &error));
    check(ds_tokenize(tokenizer, text, size, 0, &ids, &count, &error));
    free(text);
    if (count <= LENGTH) {
        fprintf(stderr, "%s: %lld tokens, expected more than %d\n", argv[1], (long long)count, LENGTH);
        return 1;
    }

    ds_trainer *trainer = create_trainer(tokenizer, steps);
    static int32_t inputs[BATCH * LENGTH], targets[BATCH * LENGTH];
    unsigned seed = 1;
    for (int step = 1; step <= steps; step++) {
        ds_step_result result = { .size = sizeof result };
        fill_batch(ids, count, &seed, inputs, targets);
        check(ds_train_step(trainer, inputs, targets, BATCH, LENGTH, DS_SCHEDULED_RATE, &result, &error));
        if (step == 1 || step % 50 == 0 || step == steps)
            printf("step %d  loss %.3f  learning rate %.5f\n", step, result.loss, result.learning_rate);
    }
    check(ds_save(trainer, argv[2], &error));
    ds_trainer_free(trainer);
    ds_free(ids);
    ds_tokenizer_free(tokenizer);

    ds_model *model;
    check(ds_model_load(&model, argv[2], NULL, &error));
    ds_generate_options options = { .size = sizeof options };
    options.max_tokens = 200;
    options.on_text = print_text;
    options.context = stdout;
    printf("---\nThe ");
    check(ds_generate(model, "The ", 4, &options, NULL, &error));
    printf("\n");
    ds_model_free(model);
    return 0;
}
