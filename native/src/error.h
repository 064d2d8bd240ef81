// What goes wrong, with a code that the C interface hands on.
#pragma once
#include <stdexcept>
#include <string>

#include "ghostzoo/ghostzoo.h"

namespace ghostzoo {

class Failure : public std::runtime_error {
public:
    Failure(ghostzoo_status status, const std::string& message) : std::runtime_error(message), status(status) {}
    const ghostzoo_status status;
};

}  // namespace ghostzoo
