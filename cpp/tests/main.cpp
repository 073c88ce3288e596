#include <cstdio>

void test_model();
void test_bounds();
void test_dual();
void test_search();
void test_rounding();

int main() {
    test_model();
    test_bounds();
    test_dual();
    test_search();
    test_rounding();
    std::puts("all C++ tests passed");
}
