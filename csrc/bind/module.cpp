// The module learnalign._core.
#include "bind/interpreter.hpp"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The native core of learnalign: use learnalign.store, learnalign.score and learnalign.select.";
    learnalign::prepare_interpreter();
    learnalign::bind_compute(m);
    learnalign::bind_store(m);
}
