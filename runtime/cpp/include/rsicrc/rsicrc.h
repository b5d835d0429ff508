/* rsicrc: describe and find changes between two images of one place, from a model folder that rsicrc-export wrote.
 *
 * A C interface; rsicrc.hpp beside it is the same for C++17. docs/cpp.md tells it as a story.
 *
 * Threads: one model serves any number of threads. A context belongs to one thread at a time: make one for each thread.
 * Memory: what the library returns lives until the next call with the same context, or until its context is closed;
 * what a caller passes is only read during the call. Errors: every function that can fail returns a status, and leaves
 * a message for rsicrc_last_error(). Nothing throws and nothing aborts.
 */
#ifndef RSICRC_RSICRC_H
#define RSICRC_RSICRC_H

#include <stddef.h>
#include <stdint.h>

#if defined(RSICRC_BUILDING)
#define RSICRC_API __attribute__((visibility("default")))
#else
#define RSICRC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RSICRC_VERSION_MAJOR 0
#define RSICRC_VERSION_MINOR 1
#define RSICRC_VERSION_PATCH 0

typedef enum rsicrc_status {
  RSICRC_OK = 0,
  RSICRC_INVALID_ARGUMENT = 1, /* a null, a setting out of its range, a buffer of the wrong size, an empty sentence */
  RSICRC_NOT_FOUND = 2,        /* there is no model folder there */
  RSICRC_BAD_MODEL = 3,        /* the folder is damaged, incomplete, or of a newer format */
  RSICRC_BAD_IMAGE = 4,        /* an image is too small, too large, too narrow, or not of its partner's size */
  RSICRC_BACKEND = 5,          /* the backend or its device is not there, or it failed */
  RSICRC_OUT_OF_MEMORY = 6,    /* of the host or of the device */
  RSICRC_INTERNAL = 7          /* a fault of this library: please report it */
} rsicrc_status;

typedef struct rsicrc_model rsicrc_model;
typedef struct rsicrc_context rsicrc_context;

/* How to open a model. Begin with RSICRC_OPEN_OPTIONS_INIT: `size` lets later versions add fields. */
typedef struct rsicrc_open_options {
  size_t size; /* sizeof(rsicrc_open_options) */
  const char*
      backend;      /* "openvino", "tensorrt", or NULL to choose: the first of those that this library was built with */
  int threads;      /* threads of a graph on the CPU; 0: as many as this process may use */
  int device;       /* number of the GPU for TensorRT */
  size_t max_batch; /* most pairs that go through the graphs together; longer lists are cut into such batches */
  const char* precision; /* "fp32", "bf16", "int8", with TensorRT also "fp16"; NULL: "fp32", which is exact */
} rsicrc_open_options;

#define RSICRC_OPEN_OPTIONS_INIT {sizeof(rsicrc_open_options), NULL, 0, 0, 32, NULL}

/* What a model is. The strings live as long as the model. */
typedef struct rsicrc_info {
  size_t size;            /* sizeof(rsicrc_info), set by the caller */
  size_t embedding_width; /* floats in one vector */
  size_t image_size;      /* side of the square that images are resized and cropped to */
  size_t vocabulary_size;
  size_t max_length; /* longest sequence of ids, START and END included */
  size_t beams;      /* of the search, where a caller names no number */
  const char* precision;
  const char* backend;
} rsicrc_info;

/* 8-bit RGB pixels, row by row. */
typedef struct rsicrc_image {
  const uint8_t* pixels;
  size_t bytes; /* size of the buffer: at least (height - 1) * stride + 3 * width */
  size_t width; /* 16 pixels or more a side, at most 2^26 in all, no side more than 16 times the other */
  size_t height;
  size_t stride; /* bytes from one row to the next; 0: 3 * width */
} rsicrc_image;

/* Two images of one place, of the same size. */
typedef struct rsicrc_pair {
  rsicrc_image before;
  rsicrc_image after;
} rsicrc_pair;

/* Beam search, as in `generate` of Hugging Face transformers. Begin with RSICRC_CAPTION_OPTIONS_INIT. */
typedef struct rsicrc_caption_options {
  size_t size;            /* sizeof(rsicrc_caption_options) */
  size_t beams;           /* sentences followed at once; 1 is greedy; 0: the model's default */
  size_t n_best;          /* sentences returned for each pair, at most `beams` */
  int early_stopping;     /* 1: stop as soon as `beams` sentences are finished; 0: not; -1: the model's default */
  size_t max_length;      /* longest sequence of ids, START included; 0: the model's */
  int use_length_penalty; /* 0: the model's default, whatever the next field says */
  double length_penalty;  /* a sentence's score is its summed log-probability / length^length_penalty */
} rsicrc_caption_options;

#define RSICRC_CAPTION_OPTIONS_INIT {sizeof(rsicrc_caption_options), 0, 1, -1, 0, 0, 1.0}

/* One sentence that the search finished. */
typedef struct rsicrc_sentence {
  size_t size;                   /* sizeof(rsicrc_sentence), set by the caller */
  const char* text;              /* UTF-8 */
  double score;                  /* summed log-probability / length^length_penalty */
  double change_score;           /* of the pair: 1 - p(a no-change sentence), 0 to 1; NaN where the model lists none */
  size_t token_count;            /* words and END; a sentence cut at the maximum length has no END */
  const double* token_log_probs; /* one for each */
  const int64_t* token_ids;      /* likewise; no START */
} rsicrc_sentence;

/* The version of the library, for example "0.1.0". */
RSICRC_API const char* rsicrc_version(void);

/* What was wrong in this thread's last call that failed; "" before the first. Lives until this thread's next call. */
RSICRC_API const char* rsicrc_last_error(void);

/* Opens a model folder and checks its files against their hashes. `options` may be NULL. */
RSICRC_API rsicrc_status rsicrc_open(const char* folder, const rsicrc_open_options* options, rsicrc_model** model);

/* Closes a model; its open contexts stay usable. NULL is fine. */
RSICRC_API void rsicrc_close(rsicrc_model* model);

RSICRC_API rsicrc_status rsicrc_model_info(const rsicrc_model* model, rsicrc_info* info);

/* Makes a place to work in: buffers and results of one thread. */
RSICRC_API rsicrc_status rsicrc_context_open(rsicrc_model* model, rsicrc_context** context);

/* Closes a context. NULL is fine. */
RSICRC_API void rsicrc_context_close(rsicrc_context* context);

/* Captions pairs; rsicrc_caption_at then tells the sentences. `options` may be NULL. */
RSICRC_API rsicrc_status rsicrc_caption(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                        const rsicrc_caption_options* options);

/* The sentence of a rank (0 is best, below n_best) for a pair of the last rsicrc_caption. It lives until the next one.
 */
RSICRC_API rsicrc_status rsicrc_caption_at(const rsicrc_context* context, size_t pair, size_t rank,
                                           rsicrc_sentence* sentence);

/* Embeds pairs: `vectors` takes count * embedding_width floats, each vector of length 1; `room` is how many fit. */
RSICRC_API rsicrc_status rsicrc_embed_pairs(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                            float* vectors, size_t room);

/* Embeds sentences (UTF-8), to be compared with pairs by a dot product. Words that the model does not know are UNK. */
RSICRC_API rsicrc_status rsicrc_embed_texts(rsicrc_context* context, const char* const* texts, size_t count,
                                            float* vectors, size_t room);

/* log p(text | pair) of every text on every pair: `log_probs` takes count * text_count doubles, pair by pair. */
RSICRC_API rsicrc_status rsicrc_score(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                      const char* const* texts, size_t text_count, double* log_probs, size_t room);

#ifdef __cplusplus
}
#endif

#endif
