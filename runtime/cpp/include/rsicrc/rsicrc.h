/* The C interface of rsicrc: captions, embeddings and scores for pairs of images of one place, from a model folder that
 * rsicrc-export wrote. rsicrc.hpp is a C++17 interface over this one. docs/cpp.md explains how to build and use both.
 *
 * Threads: any number of threads may share a model. A context serves one thread at a time, so open one context for each
 * thread. A call on a context that is in use in another thread returns RSICRC_INVALID_ARGUMENT.
 *
 * Ownership: the library only reads what the caller passes, and only during the call. Strings and arrays that the
 * library returns belong to the library, and are valid as long as the function that returns them says.
 *
 * Errors: every function that can fail returns a status and stores a message for rsicrc_last_error. No function throws
 * an exception or ends the process. After a failed call, the context and the model remain usable.
 *
 * Versions: structs that begin with `size` may grow at their end in later versions. The caller sets `size` to the
 * sizeof of its own header. The library accepts the smaller struct of an older header: missing options take their
 * defaults, and missing results are not written. It refuses a larger struct with RSICRC_INVALID_ARGUMENT. The other
 * structs never change.
 */
#ifndef RSICRC_RSICRC_H
#define RSICRC_RSICRC_H

#include <stddef.h>
#include <stdint.h>

/* RSICRC_API exports a function from the shared library, RSICRC_CALL is its calling convention. RSICRC_BUILDING is
 * defined only while the library itself is compiled. */
#if defined(_WIN32)
#if defined(RSICRC_BUILDING)
#define RSICRC_API __declspec(dllexport)
#else
#define RSICRC_API __declspec(dllimport)
#endif
#define RSICRC_CALL __cdecl
#else
#if defined(RSICRC_BUILDING)
#define RSICRC_API __attribute__((visibility("default")))
#else
#define RSICRC_API
#endif
#define RSICRC_CALL
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. The build reads it from here. */
#define RSICRC_VERSION_MAJOR 0
#define RSICRC_VERSION_MINOR 1
#define RSICRC_VERSION_PATCH 0

typedef enum rsicrc_status {
  RSICRC_OK = 0,
  RSICRC_INVALID_ARGUMENT = 1, /* NULL, an option out of range, a too small buffer, a text without tokens */
  RSICRC_NOT_FOUND = 2,        /* the model folder does not exist */
  RSICRC_BAD_MODEL = 3,        /* the model folder is damaged, incomplete or of a newer format */
  RSICRC_BAD_IMAGE = 4,     /* an image is too small, too large or too narrow, or the images of a pair differ in size */
  RSICRC_BACKEND = 5,       /* the backend or its device is not available, or failed */
  RSICRC_OUT_OF_MEMORY = 6, /* host or device memory */
  RSICRC_INTERNAL = 7       /* a defect of this library: please report it */
} rsicrc_status;

/* An opened model folder, shared by any number of threads. */
typedef struct rsicrc_model rsicrc_model;
/* The buffers and results of one thread. */
typedef struct rsicrc_context rsicrc_context;

/* Options of rsicrc_open. Initialize with RSICRC_OPEN_OPTIONS_INIT. */
typedef struct rsicrc_open_options {
  size_t size;           /* sizeof(rsicrc_open_options) */
  const char* backend;   /* "openvino" or "tensorrt"; NULL: the first of these that the library was built with */
  int threads;           /* CPU threads of one graph; 0: as many as this process may use */
  int device;            /* number of the GPU for TensorRT, counted from 0 */
  size_t max_batch;      /* most pairs in one batch, 1 to 4096; longer lists are split into batches */
  const char* precision; /* "fp32", "bf16", "int8", or with TensorRT "fp16"; NULL: "fp32", which is exact */
  const char* engines;   /* UTF-8 path of a folder of TensorRT plans that the caller trusts, because plans are code that
                            the library runs; with a NULL backend, "tensorrt" is chosen. NULL: the user's cache */
} rsicrc_open_options;

#define RSICRC_OPEN_OPTIONS_INIT {sizeof(rsicrc_open_options), NULL, 0, 0, 32, NULL, NULL}

/* Properties of a model. Set `size` before the call of rsicrc_model_info. */
typedef struct rsicrc_info {
  size_t size;            /* sizeof(rsicrc_info) */
  size_t embedding_width; /* floats in one embedding */
  size_t image_size;      /* side in pixels of the square to which images are resized and cropped */
  size_t vocabulary_size; /* tokens, the special ones included */
  size_t max_length;      /* maximum length of a token sequence, START and END included */
  size_t beams;           /* default number of beams */
  const char* precision;  /* of the opened graphs; valid as long as the model */
  const char* backend;    /* "openvino" or "tensorrt"; valid as long as the model */
} rsicrc_info;

/* 8-bit RGB pixels in rows from top to bottom. Each side has at least 16 pixels, the longer side is at most 16 times
 * the shorter one, and the image has at most 2^26 pixels. */
typedef struct rsicrc_image {
  const uint8_t* pixels;
  size_t bytes;  /* size of the buffer: at least (height - 1) * stride + 3 * width */
  size_t width;  /* in pixels */
  size_t height; /* in pixels */
  size_t stride; /* bytes from the beginning of one row to the next; 0: 3 * width */
} rsicrc_image;

/* Two images of one place on the same grid, of the same size in pixels. */
typedef struct rsicrc_pair {
  rsicrc_image before;
  rsicrc_image after;
} rsicrc_pair;

/* Options of the beam search, with the meaning that they have in `generate` of Hugging Face transformers. Initialize
 * with RSICRC_CAPTION_OPTIONS_INIT. */
typedef struct rsicrc_caption_options {
  size_t size;            /* sizeof(rsicrc_caption_options) */
  size_t beams;           /* hypotheses in parallel, at most half the vocabulary; 1: greedy; 0: the model's default */
  size_t n_best;          /* sentences returned for each pair, 1 to `beams` */
  int early_stopping;     /* 1: stop as soon as `beams` sentences are finished; 0: do not; -1: the model's default */
  size_t max_length;      /* maximum length of a token sequence, START included, at least 2; 0: the model's */
  int use_length_penalty; /* 0: use the model's default and ignore `length_penalty` */
  double length_penalty;  /* exponent of the length in the score; finite */
} rsicrc_caption_options;

#define RSICRC_CAPTION_OPTIONS_INIT {sizeof(rsicrc_caption_options), 0, 1, -1, 0, 0, 1.0}

/* A sentence that the beam search finished. Set `size` before the call of rsicrc_caption_at. The pointers are valid
 * until the context's next rsicrc_caption, or until the context is closed. */
typedef struct rsicrc_sentence {
  size_t size;                   /* sizeof(rsicrc_sentence) */
  const char* text;              /* UTF-8 */
  double score;                  /* sum of the log-probabilities / length^length_penalty */
  double change_score;           /* of the pair: 1 - p(a no-change sentence), 0 to 1; NaN if the model lists none */
  size_t token_count;            /* tokens without START, with END unless the sentence was cut at the maximum length */
  const double* token_log_probs; /* natural logarithms, [token_count] */
  const int64_t* token_ids;      /* [token_count] */
} rsicrc_sentence;

/* Returns the version of the library, for example "0.1.0". Valid until the process ends. */
RSICRC_API const char* RSICRC_CALL rsicrc_version(void);

/* Returns the message of the last call that failed in this thread, or "" if none failed: one line without control
 * characters, also if a file of the model has some. Valid until the next call in this thread. */
RSICRC_API const char* RSICRC_CALL rsicrc_last_error(void);

/* Opens a model folder and compares its files with their hashes. `folder` is a UTF-8 path; `options` may be NULL. On
 * success, `*model` belongs to the caller, who closes it with rsicrc_close; on failure, `*model` is NULL.
 * Errors: NOT_FOUND, BAD_MODEL, BACKEND, INVALID_ARGUMENT, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_open(const char* folder, const rsicrc_open_options* options,
                                                 rsicrc_model** model);

/* Closes a model. Its open contexts remain usable. NULL is allowed. */
RSICRC_API void RSICRC_CALL rsicrc_close(rsicrc_model* model);

/* Writes the properties of a model into `info`. Errors: INVALID_ARGUMENT. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_model_info(const rsicrc_model* model, rsicrc_info* info);

/* Opens a context of a model. On success, `*context` belongs to the caller, who closes it with rsicrc_context_close; on
 * failure, `*context` is NULL. Graphs are opened by the first call that uses them, once for all contexts of the model.
 * Errors: INVALID_ARGUMENT, BAD_MODEL, BACKEND, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_context_open(rsicrc_model* model, rsicrc_context** context);

/* Closes a context and frees its results. NULL is allowed. */
RSICRC_API void RSICRC_CALL rsicrc_context_close(rsicrc_context* context);

/* Captions `count` pairs (at least 1). rsicrc_caption_at returns the sentences. `options` may be NULL. All pairs are
 * checked before any work; the message names the first invalid one.
 * Errors: INVALID_ARGUMENT, BAD_IMAGE, BAD_MODEL, BACKEND, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_caption(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                                    const rsicrc_caption_options* options);

/* Writes a sentence of the last rsicrc_caption into `sentence`: of pair number `pair`, and of rank `rank`, where rank 0
 * is the best and `n_best` - 1 the last. Errors: INVALID_ARGUMENT. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_caption_at(const rsicrc_context* context, size_t pair, size_t rank,
                                                       rsicrc_sentence* sentence);

/* Writes the embeddings of `count` pairs (at least 1), [count, embedding_width], each of Euclidean length 1, into
 * `vectors`, which has a capacity of `capacity` floats.
 * Errors: INVALID_ARGUMENT, BAD_IMAGE, BAD_MODEL, BACKEND, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_embed_pairs(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                                        float* vectors, size_t capacity);

/* Writes the embeddings of `count` texts (at least 1; UTF-8), [count, embedding_width], each of Euclidean length 1,
 * into `vectors`, which has a capacity of `capacity` floats. The dot product with the embedding of a pair is their
 * similarity. Tokens that are not in the vocabulary count as UNK, and texts beyond the maximum length are cut.
 * Errors: INVALID_ARGUMENT, BAD_MODEL, BACKEND, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_embed_texts(rsicrc_context* context, const char* const* texts, size_t count,
                                                        float* vectors, size_t capacity);

/* Writes log p(text | pair), a natural logarithm, for every pair and every text, [count, text_count], into `log_probs`,
 * which has a capacity of `capacity` doubles. Texts are treated as in rsicrc_embed_texts.
 * Errors: INVALID_ARGUMENT, BAD_IMAGE, BAD_MODEL, BACKEND, OUT_OF_MEMORY. */
RSICRC_API rsicrc_status RSICRC_CALL rsicrc_score(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                                  const char* const* texts, size_t text_count, double* log_probs,
                                                  size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
