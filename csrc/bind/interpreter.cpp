#include "bind/interpreter.hpp"

#include <pthread.h>
#include <unistd.h>

namespace learnalign {
namespace {

unsigned long main_thread = 0;

const char* python_class(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::array:
            return "ArrayError";
        case ErrorKind::config:
            return "ConfigError";
        case ErrorKind::store:
            return "StoreError";
        case ErrorKind::corrupt:
            return "StoreCorruptError";
    }
    return "LearnAlignError";
}

// Messages name files, whose names need not be UTF-8.
void raise_in_python(const Error& error) {
    const py::object type = py::module_::import("learnalign.errors").attr(python_class(error.kind()));
    const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.what()));
    if (text) PyErr_SetObject(type.ptr(), text.ptr());
}

}  // namespace

Unlocked::~Unlocked() {
    try {
        PyEval_RestoreThread(state_);
    } catch (...) {  // the unwinding that ends this thread; leaving here would abort the process
        for (;;) ::pause();
    }
}

void poll_signals() {
    if (PyThread_get_thread_ident() != main_thread) return;
    const py::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

const double* column(const Doubles& array, int64_t rows, const char* name) {
    if (array.ndim() != 1 || array.shape(0) != rows) {
        throw Error(ErrorKind::array, std::string(name) + " must be float64 [" + std::to_string(rows) + "]");
    }
    return array.data();
}

void prepare_interpreter() {
    const py::object thread = py::module_::import("threading").attr("main_thread")();
    main_thread = thread.attr("ident").cast<unsigned long>();
    ::pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
    py::register_exception_translator([](std::exception_ptr failure) {
        try {
            if (failure) std::rethrow_exception(failure);
        } catch (const Error& error) {
            raise_in_python(error);
        }
    });
}

}  // namespace learnalign
