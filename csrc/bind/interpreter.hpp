// One idea: the interpreter's lock, let go of while the core works, and what the core tells the interpreter.
//
// Only the files of this folder see Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "common/error.hpp"

namespace learnalign {

namespace py = pybind11;

// The interpreter's lock is released for the length of the scope. A thread that wants it back while the
// interpreter ends (a daemon thread whose main thread has left) waits there for the end of the process, as
// Python 3.14 has it: earlier ones end the thread by unwinding its stack, which C++ takes for a fatal error.
class Unlocked {
  public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    ~Unlocked();
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;

  private:
    PyThreadState* const state_;
};

// For use inside Unlocked: turns a pending Ctrl-C into KeyboardInterrupt. Signals are the main thread's, so
// that other threads need not disturb it.
void poll_signals();

// Remembers the main thread, also of a child of fork(), and has Error raised under its name in
// learnalign.errors.
void prepare_interpreter();

using Doubles = py::array_t<double, py::array::c_style>;

// The numbers of a float64 [rows] array. Throws Error(array).
const double* column(const Doubles& array, int64_t rows, const char* name);

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

void bind_compute(py::module_& m);
void bind_store(py::module_& m);

}  // namespace learnalign
