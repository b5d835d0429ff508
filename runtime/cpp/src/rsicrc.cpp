// The C interface: handles, and the conversion of exceptions to statuses.
#include "rsicrc/rsicrc.h"

#include <memory>
#include <new>
#include <string>

#include "context.h"
#include "error.h"
#include "model.h"
#include "printable.h"
#include "struct_size.h"

struct rsicrc_model {
  std::shared_ptr<const rsicrc::impl::Model> model;
};

struct rsicrc_context {
  rsicrc::impl::Context context;
};

namespace {

#define RSICRC_TEXT_(number) #number
#define RSICRC_TEXT(number) RSICRC_TEXT_(number)

constexpr char kVersion[] =
    RSICRC_TEXT(RSICRC_VERSION_MAJOR) "." RSICRC_TEXT(RSICRC_VERSION_MINOR) "." RSICRC_TEXT(RSICRC_VERSION_PATCH);

thread_local std::string last_error;
// Points into last_error, or to a constant if there was no memory for the message.
thread_local const char* last_message = "";

rsicrc_status report(rsicrc_status status, const char* message) noexcept {
  try {
    last_error = rsicrc::impl::printable(message);
    last_message = last_error.c_str();
  } catch (...) {
    last_message = "out of memory";
  }
  return status;
}

template <typename Work>
rsicrc_status guarded(const Work& work) noexcept {
  try {
    work();
    return RSICRC_OK;
  } catch (const rsicrc::impl::Error& error) {
    return report(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return report(RSICRC_OUT_OF_MEMORY, "out of memory: caption fewer pairs or beams at once (max_batch)");
  } catch (const std::exception& error) {
    return report(RSICRC_INTERNAL, error.what());
  } catch (...) {
    return report(RSICRC_INTERNAL, "an exception of unknown type");
  }
}

template <typename Pointer>
Pointer& required(Pointer* pointer, const char* name) {
  if (pointer == nullptr) rsicrc::impl::fail(RSICRC_INVALID_ARGUMENT, name, " is NULL");
  return *pointer;
}

}  // namespace

const char* RSICRC_CALL rsicrc_version() { return kVersion; }

const char* RSICRC_CALL rsicrc_last_error() { return last_message; }

rsicrc_status RSICRC_CALL rsicrc_open(const char* folder, const rsicrc_open_options* options, rsicrc_model** model) {
  return guarded([&] {
    required(model, "model") = nullptr;
    required(folder, "folder");
    constexpr rsicrc_open_options kDefaults = RSICRC_OPEN_OPTIONS_INIT;
    const rsicrc_open_options chosen = rsicrc::impl::read_struct("rsicrc_open_options", options, kDefaults);
    *model = new rsicrc_model{std::make_shared<const rsicrc::impl::Model>(folder, chosen)};
  });
}

void RSICRC_CALL rsicrc_close(rsicrc_model* model) { delete model; }

rsicrc_status RSICRC_CALL rsicrc_model_info(const rsicrc_model* model, rsicrc_info* info) {
  return guarded([&] {
    const rsicrc::impl::Model& opened = *required(model, "model").model;
    const rsicrc::impl::Manifest& manifest = opened.manifest();
    const rsicrc_info full = {
        sizeof full,         manifest.embedding_width,   manifest.image_size,        manifest.vocabulary_size,
        manifest.max_length, manifest.beam_search.beams, manifest.precision.c_str(), opened.backend().name()};
    rsicrc::impl::write_struct("rsicrc_info", full, required(info, "info"));
  });
}

rsicrc_status RSICRC_CALL rsicrc_context_open(rsicrc_model* model, rsicrc_context** context) {
  return guarded([&] {
    required(context, "context") = nullptr;
    *context = new rsicrc_context{rsicrc::impl::Context(required(model, "model").model)};
  });
}

void RSICRC_CALL rsicrc_context_close(rsicrc_context* context) { delete context; }

rsicrc_status RSICRC_CALL rsicrc_caption(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                         const rsicrc_caption_options* options) {
  return guarded([&] { required(context, "context").context.caption({pairs, count}, options); });
}

rsicrc_status RSICRC_CALL rsicrc_caption_at(const rsicrc_context* context, size_t pair, size_t rank,
                                            rsicrc_sentence* sentence) {
  return guarded([&] { required(context, "context").context.caption_at(pair, rank, required(sentence, "sentence")); });
}

rsicrc_status RSICRC_CALL rsicrc_embed_pairs(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                             float* vectors, size_t capacity) {
  return guarded([&] { required(context, "context").context.embed_pairs({pairs, count}, {vectors, capacity}); });
}

rsicrc_status RSICRC_CALL rsicrc_embed_texts(rsicrc_context* context, const char* const* texts, size_t count,
                                             float* vectors, size_t capacity) {
  return guarded([&] { required(context, "context").context.embed_texts({texts, count}, {vectors, capacity}); });
}

rsicrc_status RSICRC_CALL rsicrc_score(rsicrc_context* context, const rsicrc_pair* pairs, size_t count,
                                       const char* const* texts, size_t text_count, double* log_probs,
                                       size_t capacity) {
  return guarded(
      [&] { required(context, "context").context.score({pairs, count}, {texts, text_count}, {log_probs, capacity}); });
}
