// WebAssembly as zig builds it cannot unwind: what would be thrown is printed, and ends the module.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <typeinfo>

#include "error.h"

extern "C" {

void* __cxa_allocate_exception(size_t size) { return std::malloc(size); }
void __cxa_free_exception(void* exception) { std::free(exception); }
[[noreturn]] void __cxa_throw(void* exception, std::type_info* type, void (*)(void*)) {
    const bool mine = *type == typeid(ghostzoo::Failure);
    std::fprintf(stderr, "%s\n", mine ? static_cast<ghostzoo::Failure*>(exception)->what() : type->name());
    std::abort();
}
// What belongs to the only thread lives as long as the module.
int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }

}
