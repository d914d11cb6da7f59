// One idea: every error the native core raises on purpose. bind/interpreter.cpp maps each kind to a class of
// learnalign/errors.py.
#pragma once

#include <stdexcept>
#include <string>

namespace learnalign {

enum class ErrorKind {
    array,    // a caller's array has the wrong shape, dtype or values
    config,   // a setting (here: an environment variable) has an unknown value
    store,    // a store cannot be read or written
    corrupt,  // bytes of a store do not match their checksum
};

class Error : public std::runtime_error {
  public:
    Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
    ErrorKind kind() const { return kind_; }

  private:
    ErrorKind kind_;
};

}  // namespace learnalign
