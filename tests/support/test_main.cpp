// The main of every test program, compiled once: Catch2's takes nine seconds.
#ifndef DSV_CATCH2_V3
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
