/* libdeepseek: train and run DeepSeek models from C or C++.
 *
 *     ds_error error;
 *     ds_model *model;
 *     ds_generated result = { .size = sizeof result };
 *     if (ds_model_load(&model, "path/to/model", NULL, &error)) { fprintf(stderr, "%s\n", error.message); return 1; }
 *     if (ds_generate(model, "Once upon a time", 16, NULL, &result, &error)) fprintf(stderr, "%s\n", error.message);
 *     else printf("%s\n", result.text);
 *     ds_free(result.text);
 *     ds_free(result.ids);
 *     ds_model_free(model);
 *
 * Link with `pkg-config --cflags --libs deepseek`. For the static library: `pkg-config --static --cflags --libs
 * deepseek`, with -l:libdeepseek.a in place of -ldeepseek. examples/generate.c and examples/train.c are complete
 * programs.
 *
 * Rules that hold for every function here
 *
 *   Errors      A function that can fail returns a ds_status, DS_OK (0) or the reason, and takes a `ds_error *` as its
 *               last argument, which may be NULL. On failure the record says what happened, where, what was found and
 *               what was expected; on success its code is DS_OK and its message empty. What is returned through
 *               pointers is then unset or as it was: handles are NULL, and no object is left half changed. NULL and
 *               values out of range are DS_INVALID, never a crash. Where a single value is returned, it says which
 *               value means "none"; a record is not filled then. The library never prints, never ends the process, and
 *               sets no signal handler.
 *   Memory      *_free takes NULL. What a function hands out as plain memory (ids, text) belongs to the caller and goes
 *               back through ds_free. Strings that a function returns directly belong to the object they come from, and
 *               live as long as it.
 *   Structs     A struct whose first field is `size` must have it set to its own sizeof by the caller, the rest zeroed:
 *               `ds_model_options options = { .size = sizeof options };`. Zero always means "the default", so that
 *               structs can grow while programs compiled with an older header go on working. In C++ before C++20:
 *               `ds_model_options options = {}; options.size = sizeof options;`.
 *   Threads     An object (ds_model with its sequences, ds_trainer) is used by one thread at a time; different objects
 *               may be used by different threads at once. A ds_tokenizer never changes, any number of threads may use
 *               one. Each model and each trainer has a pool of threads of its own, in which all signals are blocked; it
 *               does not live on in a process that is forked off, so load after fork().
 *   Callbacks   run on the thread that called. They may call everything here, also for the same model, but free nothing
 *               that is in use; they must return (no longjmp, no C++ exception).
 *   Text        is UTF-8 with a length in bytes; NUL is an ordinary character. Ill-formed sequences count as U+FFFD
 *               (tokenizer `bytes` takes every byte as it is).
 *   Bits        No result depends on the number of threads, on the batch, or on how tokens are cut into calls. (They do
 *               depend on the compute type and on the instruction set; DEEPSEEK_ISA chooses one.)
 *
 * Names and numbers follow config.json and the papers; (V1) is "DeepSeek LLM: scaling open-source language models with
 * longtermism", arXiv:2401.02954. */
#ifndef DEEPSEEK_H
#define DEEPSEEK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- version ----------------------------------------------------------------------------------------------------- */

#define DS_VERSION_MAJOR 0   /* grows when programs must be compiled anew: the number in libdeepseek.so.0 */
#define DS_VERSION_MINOR 1   /* grows with what is added */
#define DS_VERSION_PATCH 0
#define DS_VERSION_STRING "0.1.0"
#define DS_VERSION (DS_VERSION_MAJOR * 1000000 + DS_VERSION_MINOR * 1000 + DS_VERSION_PATCH)

/* DS_VERSION of the library that is linked; compare with the macro of the header */
int ds_version(void);
const char *ds_version_string(void);   /* "0.1.0" */

/* ---- errors ------------------------------------------------------------------------------------------------------ */

typedef enum ds_status {
    DS_OK = 0,
    DS_INVALID = 1,       /* malformed or inconsistent input: an argument, a file, a config, a token id */
    DS_UNSUPPORTED = 2,   /* well-formed input that asks for something this library does not do */
    DS_NOT_FOUND = 3,     /* a file, a tensor or a key that must exist does not */
    DS_IO = 4,            /* the operating system refused: open, read, write, rename, no space */
    DS_NO_MEMORY = 5,
    DS_INTERRUPTED = 6    /* asked to stop; no function here returns it yet (ds_generate: see DS_FINISH_INTERRUPTED) */
} ds_status;

typedef struct ds_error {
    ds_status code;
    char message[1020];   /* one line of UTF-8, NUL-terminated */
} ds_error;

/* "ok", "invalid", "unsupported", "not found", "io", "no memory", "interrupted"; "unknown" otherwise */
const char *ds_status_name(ds_status status);
void ds_free(void *memory);                     /* memory that a function here handed out; NULL is fine */

/* ---- tokenizers: text <-> ids ------------------------------------------------------------------------------------ */

typedef struct ds_tokenizer ds_tokenizer;

/* From a tokenizer.json, or a model folder that holds one; tokenizer_config.json beside it says what begins and ends
 * texts. Byte-level BPE with the pre-tokenizers of DeepSeek V1 to V4 and GPT-2, `bytes` and `characters`; another one
 * is DS_UNSUPPORTED. */
ds_status ds_tokenizer_load(ds_tokenizer **tokenizer, const char *path, ds_error *error);
/* `bytes`: one id for each of the 256 bytes and one that ends a text; nothing to train, fit for any text. */
ds_status ds_tokenizer_bytes(ds_tokenizer **tokenizer, ds_error *error);
void ds_tokenizer_free(ds_tokenizer *tokenizer);   /* not for one that ds_model_tokenizer returned */

int64_t ds_tokenizer_size(const ds_tokenizer *tokenizer);                        /* largest id + 1; 0 for NULL */
/* id of an added token such as "<|EOT|>"; -1: none */
int32_t ds_tokenizer_find(const ds_tokenizer *tokenizer, const char *content);
/* token that begins a text; -1: none */
int32_t ds_tokenizer_bos(const ds_tokenizer *tokenizer);
/* token that ends a text; -1: none (a model may know more: ds_model_is_eos) */
int32_t ds_tokenizer_eos(const ds_tokenizer *tokenizer);
/* The bytes that an id stands for, *size of them, the tokenizer's; NULL and 0 for an id that is not defined. They may
 * be a part of a character, which the next token completes. *special (may be NULL): 1 for what
 * DS_DETOKENIZE_SKIP_SPECIAL leaves out, else 0. */
const char *ds_tokenizer_piece(const ds_tokenizer *tokenizer, int32_t id, size_t *size, int *special);

enum {
    /* added tokens that stand in the text (markers of roles, of the end) become their ids; otherwise they are ordinary
       text */
    DS_TOKENIZE_SPECIAL = 1,
    /* the token that begins a text is put in front where the tokenizer asks for it (add_bos_token) and the text does
       not begin with it already */
    DS_TOKENIZE_BEGIN = 2
};
/* *ids receives *count ids, to be given to ds_free (also when there are none). `text` may be NULL where size is 0. */
ds_status ds_tokenize(const ds_tokenizer *tokenizer, const char *text, size_t size, unsigned flags, int32_t **ids,
                      int64_t *count, ds_error *error);

enum { DS_DETOKENIZE_SKIP_SPECIAL = 1 };   /* special tokens (begin, end, padding) are left out */
/* *text receives *size bytes of well-formed UTF-8 and a NUL beyond them, to be given to ds_free. Ids that are not
 * defined (padding of the vocabulary) are left out, negative ones DS_INVALID. */
ds_status ds_detokenize(const ds_tokenizer *tokenizer, const int32_t *ids, int64_t count, unsigned flags, char **text,
                        size_t *size, ds_error *error);

/* ---- models ------------------------------------------------------------------------------------------------------ */

typedef struct ds_model ds_model;

enum {
    DS_COMPUTE_DEFAULT = 0,   /* of a model: the type of its weights; of a trainer: `train.compute` */
    DS_COMPUTE_FP32 = 1,
    DS_COMPUTE_BF16 = 2,      /* operands of matrix products in bf16, sums in fp32 */
    /* in E4M3 with scales, as DeepSeek-V3 was trained: of a model whose matrices are stored so */
    DS_COMPUTE_FP8 = 3
};

/* The type of what a sequence keeps of its tokens. A smaller one takes less memory and time, and rounds. */
enum {
    DS_CACHE_DEFAULT = 0,     /* that of the matrix products */
    DS_CACHE_FP32 = 1,
    DS_CACHE_BF16 = 2,
    DS_CACHE_FP8 = 3          /* models whose attention is all multi-head latent attention; DS_UNSUPPORTED for others */
};

/* Do modules of multi-token prediction (DeepSeek-V3) draft what comes next in ds_generate? The model verifies every
 * token, so a text does not depend on it. */
enum {
    DS_DRAFT_AUTO = 0,        /* where the folder has them, and as long as it is measured to be faster */
    DS_DRAFT_OFF = 1,         /* never: the modules are not loaded */
    DS_DRAFT_ALWAYS = 2       /* DS_UNSUPPORTED without modules */
};

typedef struct ds_model_options {
    size_t size;
    int compute;   /* DS_COMPUTE_* */
    /* 0: the number in the environment variable DEEPSEEK_THREADS, else one for each processor; at most 1024 */
    int threads;
    int cache;     /* DS_CACHE_* */
    int draft;     /* DS_DRAFT_* */
} ds_model_options;

/* Opens a Hugging Face folder (config.json, *.safetensors in F32, BF16, F16 or V3's FP8, and, if there is one,
 * tokenizer.json) for inference. options NULL: all defaults. Files are mapped: leave them as they are until
 * ds_model_free (to replace one by renaming another over it is fine). DS_NOT_FOUND: no such folder, or a file or a
 * tensor is missing; DS_UNSUPPORTED: another architecture, another kind of tokenizer. */
ds_status ds_model_load(ds_model **model, const char *folder, const ds_model_options *options, ds_error *error);
void ds_model_free(ds_model *model);   /* after its sequences */

typedef struct ds_model_info {
    size_t size;
    const char *model_type;             /* of config.json, "llama" for V1; the model's */
    int64_t vocab_size;                 /* V: length of a row of logits */
    int64_t max_position_embeddings;    /* the context: tokens of a sequence at most */
    int64_t hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads;
    int64_t parameters;                 /* all of them */
    int64_t active_parameters;          /* those that a token meets */
    int64_t cache_bytes_per_token;      /* of a sequence */
    int compute;                        /* DS_COMPUTE_FP32, _BF16 or _FP8 */
    int threads;                        /* that compute, the caller's included */
    int cache;                          /* DS_CACHE_FP32, _BF16 or _FP8 */
    int draft_modules;                  /* modules of multi-token prediction that may draft */
    /* drafts of this model's ds_generate so far, and those that the model chose too */
    int64_t drafted, accepted;
} ds_model_info;
ds_status ds_model_get_info(const ds_model *model, ds_model_info *info, ds_error *error);

/* The folder's tokenizer; NULL where it has none. It is the model's: no ds_tokenizer_free. */
const ds_tokenizer *ds_model_tokenizer(const ds_model *model);
/* Does this token end a text? 1 for each of generation_config.json, config.json and the tokenizer, else 0. */
int ds_model_is_eos(const ds_model *model, int32_t id);
/* What was odd in the folder but no error (unknown config keys, unused tensors): warning number `index`; NULL from the
 * first that does not exist. */
const char *ds_model_warning(const ds_model *model, int index);

/* ---- sequences: tokens in, logits out ---------------------------------------------------------------------------- */

/* The state of one text: what attention keeps of all its tokens so far (keys and values; latents in V2), at absolute
 * positions 0, 1, ... */
typedef struct ds_sequence ds_sequence;

/* Room for `capacity` tokens, 1 to max_position_embeddings; 0: max_position_embeddings. Takes up to about capacity *
 * cache_bytes_per_token bytes of memory. */
ds_status ds_sequence_create(ds_sequence **sequence, ds_model *model, int64_t capacity, ds_error *error);
void ds_sequence_free(ds_sequence *sequence);       /* before ds_model_free */
int64_t ds_sequence_length(const ds_sequence *sequence);     /* tokens fed; 0 for NULL */
int64_t ds_sequence_capacity(const ds_sequence *sequence);   /* 0 for NULL */
/* Forgets the tokens from position `length` on, 0 to ds_sequence_length. What is fed after gives the same bits as if
 * they had never been. */
ds_status ds_sequence_rewind(ds_sequence *sequence, int64_t length, ds_error *error);

/* One sequence's part of a ragged batch. (This struct stands in arrays, so it never grows.) */
typedef struct ds_input {
    ds_sequence *sequence;   /* of this model; in one input of a call only */
    const int32_t *ids;      /* [count], each from 0 to V - 1 */
    int64_t count;           /* 0 is fine; at most capacity - length */
    /* NULL: not wanted; else [V] of the last token, or [count, V] with every_logit: unnormalised log-probabilities of
     * the token that follows */
    float *logits;
    int every_logit;         /* not 0: logits of every token of `ids` */
} ds_input;
/* Computes the new tokens of all inputs together: prompts, parts of prompts and single tokens may be mixed. A token's
 * logits have the same bits whatever else is in the call. On failure no sequence has grown. */
ds_status ds_feed(ds_model *model, const ds_input *inputs, int count, ds_error *error);

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

/* id: 0 to V - 1; minus infinity bans a token. (Stands in arrays, so it never grows.) */
typedef struct ds_logit_bias { int32_t id; float bias; } ds_logit_bias;

/* In this order: mask of ids that the tokenizer does not define; repetition penalty (CTRL, arXiv:1909.05858, over
 * prompt and text); presence and frequency penalties (over the generated text alone); bias; temperature; top_k; top_p
 * (arXiv:1904.09751); min_p (arXiv:2407.01082). Unlike those of other structs, these zeros have their own meaning: fill
 * it with ds_model_sampling first. */
typedef struct ds_sampling {
    size_t size;
    double temperature;                            /* 0: the most probable token, ties to the lowest id */
    int64_t top_k;                                 /* 0: all */
    double top_p;                                  /* 0 to 1; 1: all */
    double min_p;                                  /* 0 to 1; 0: all */
    double repetition_penalty;                     /* above 0; 1: none */
    double presence_penalty, frequency_penalty;    /* 0: none */
    const ds_logit_bias *bias; int bias_count;     /* [bias_count], read during the call; those of one id add up */
    uint64_t seed;
} ds_sampling;
/* The values of the folder's generation_config.json; where it has none temperature 0.8 and
 * top_p 0.95. No bias; seed 0. */
ds_status ds_model_sampling(const ds_model *model, ds_sampling *sampling, ds_error *error);

/* Chooses the token after ids[0..count), the first `prompt` of which are the prompt; logits [V] are those of the last
 * of them. The choice is a function of (logits, sampling, ids, stream, count): `stream` numbers texts that share a
 * seed. sampling NULL: ds_model_sampling's. *logprob (may be NULL) receives the token's natural log-probability under
 * softmax(logits). A NaN counts as minus infinity; where every token has minus infinity, the first that the tokenizer
 * defines is chosen. */
ds_status ds_sample(ds_model *model, const float *logits, const ds_sampling *sampling, const int32_t *ids,
                    int64_t count, int64_t prompt, uint64_t stream, int32_t *id, float *logprob, ds_error *error);

/* ---- generation -------------------------------------------------------------------------------------------------- */

enum {
    DS_FINISH_EOS = 1,          /* the model ended the text */
    DS_FINISH_STOP = 2,         /* a stop string appeared; it and what follows is not in the text */
    DS_FINISH_LENGTH = 3,       /* max_tokens, or the context is full */
    DS_FINISH_INTERRUPTED = 4   /* on_text returned 0; the result holds what there is */
};

typedef struct ds_generate_options {
    size_t size;
    const ds_sampling *sampling;       /* NULL: ds_model_sampling's */
    int64_t max_tokens;                /* new tokens at most; 0: 256 */
    /* [stop_count] NUL-terminated, at most 16 of up to 4096 bytes, well-formed UTF-8, none empty */
    const char *const *stops;
    int stop_count;
    int ignore_eos;                    /* not 0: go on after the end of the text */
    int special;                       /* not 0: added tokens that stand in the prompt become their ids */
    uint64_t stream;                   /* numbers texts that share a seed */
    /* Called with new text as it appears, always whole characters and never a part of what may become a stop string.
     * Returns 0 to end the text. May be NULL. */
    int (*on_text)(void *context, const char *text, size_t size);
    void *context;                     /* for on_text */
} ds_generate_options;

typedef struct ds_generated {
    size_t size;
    char *text; size_t text_size;                       /* what was generated, without the prompt; ds_free */
    /* [prompt_count + count]: the prompt's tokens, then the generated ones, an end-of-text token included; ds_free */
    int32_t *ids; int64_t prompt_count, count;
    int finish;                                         /* DS_FINISH_* */
} ds_generated;   /* what a call finds in the struct (other than size) is overwritten, not freed */

/* Continues a text with the model's own tokenizer. The prompt begins with the token that begins texts where the
 * tokenizer asks for one; an empty prompt needs such a token. A prompt longer than the context is DS_INVALID, a model
 * without a tokenizer DS_NOT_FOUND. options NULL: all defaults. result (may be NULL: on_text has seen it all) is zeroed
 * on failure. */
ds_status ds_generate(ds_model *model, const char *prompt, size_t prompt_size, const ds_generate_options *options,
                      ds_generated *result, ds_error *error);

/* ---- training ---------------------------------------------------------------------------------------------------- */

/* A model with gradients and AdamW's moments (arXiv:1711.05101), stepped on the tokens that the caller gives.
 * (`deepseek train` adds data, evaluation, checkpoints and resumption.) */
typedef struct ds_trainer ds_trainer;

typedef struct ds_trainer_options {
    size_t size;
    /* a model folder whose weights to begin with: the config's shapes must be its own; NULL: fresh ones, a function of
     * `train.seed` */
    const char *from;
    /* gives vocab_size (unless `from` does), bos and eos where the config names none, and is saved with the model. It
     * must outlive the trainer. NULL: none is (nor that of `from`) */
    const ds_tokenizer *tokenizer;
    int compute;                      /* DS_COMPUTE_* */
    int threads;                      /* as in ds_model_options */
} ds_trainer_options;

/* From a training config: a model's config.json with one more key, `train`, as `deepseek train --help` lists them. In
 * force here: steps, sequence_length, batch_size and micro_batch_size, seed, compute, recompute, optimizer, schedule
 * (of the learning rate), loss, capacity_factor, undropped, clip_grad_norm, dtype. The others (data, evaluation,
 * samples, checkpoints) are checked but have no effect. vocab_size absent: that of `from`, else the tokenizer's.
 * max_position_embeddings absent: sequence_length. */
ds_status ds_trainer_create(ds_trainer **trainer, const char *config_json, size_t config_size,
                            const ds_trainer_options *options, ds_error *error);
ds_status ds_trainer_create_from_file(ds_trainer **trainer, const char *config_path, const ds_trainer_options *options,
                                      ds_error *error);
void ds_trainer_free(ds_trainer *trainer);

typedef struct ds_trainer_info {
    size_t size;
    int64_t vocab_size, parameters;
    /* of the config: what the schedule counts to and what a caller should feed */
    int64_t steps, sequence_length, batch_size, micro_batch_size;
    int64_t steps_done;                                             /* optimizer steps made */
    int compute, threads;
} ds_trainer_info;
ds_status ds_trainer_get_info(const ds_trainer *trainer, ds_trainer_info *info, ds_error *error);

/* The schedule's rate for a step, counted from 1 ((V1) section 2.3 for multi_step). NAN for NULL or a step below 1. */
double ds_learning_rate(const ds_trainer *trainer, int64_t step);

#define DS_IGNORE (-1)              /* a target that is not predicted */
#define DS_SCHEDULED_RATE (-1.0)    /* the learning rate of the schedule */

typedef struct ds_step_result {
    size_t size;
    /* in nats, before the update: mean cross-entropy of the predicted positions, plus the other losses that
     * `train.loss` gives a weight */
    double loss;
    double grad_norm;       /* global 2-norm of the gradients, before clipping */
    double learning_rate;   /* of this update */
    double main_loss;       /* the cross-entropy alone */
    /* Of models with routed experts, 0 of others: the largest load of an expert over the mean load, minus 1, of the
     * layer where it is largest; assignments of tokens to experts; those of them that
     * `train.capacity_factor` dropped. */
    double max_violation;
    int64_t assigned, dropped;
    /* multi-token prediction, mean over the depths, unweighted; 0 of models without such modules, and where
     * `train.loss.mtp` is 0 */
    double mtp_loss;
} ds_step_result;
/* One optimizer step. inputs and targets are [sequences, length]: targets[b][t] is the token that follows inputs[b][t],
 * or DS_IGNORE. length: 1 to the config's sequence_length; any number of sequences: micro_batch_size of them are
 * computed at once, gradients add up. Where `train.documents` is separate, DS_IGNORE is for the caller to give to the
 * tokens that end documents. learning_rate: DS_SCHEDULED_RATE, or 0 and above. result may be NULL. A loss or a
 * norm that is not finite is DS_INVALID, and the parameters are as they were. */
ds_status ds_train_step(ds_trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                        int64_t length, double learning_rate, ds_step_result *result, ds_error *error);
/* The mean loss in nats over the `*predicted` (may be NULL) targets that are not DS_IGNORE, without training. Shapes as
 * above. */
ds_status ds_train_loss(ds_trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                        int64_t length, double *loss, int64_t *predicted, ds_error *error);

/* Writes a model folder (config.json, generation_config.json, *.safetensors in `train.dtype`, the tokenizer's files)
 * that ds_model_load, `deepseek` and transformers load. The folder is made where it is missing; files of these names
 * are replaced, each completely or not at all. */
ds_status ds_save(const ds_trainer *trainer, const char *folder, ds_error *error);

#ifdef __cplusplus
}
#endif

#endif
