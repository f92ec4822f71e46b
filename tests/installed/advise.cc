// advise: advises every number that it is given as NUMBER=ADVICE, and prints what is advised then.
#include <cradvise.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char **argv)
{
	std::vector<int> numbers;
	for (int i = 1; i < argc; i++) {
		const std::string word = argv[i];
		const auto sign = word.find('=');
		const int number = std::stoi(word.substr(0, sign));
		if (cradvise(number, std::stoi(word.substr(sign + 1))) == -1)
			std::cout << number << ": " << std::strerror(errno) << '\n';
		else
			numbers.push_back(number);
	}
	for (const int number : numbers)
		std::cout << number << ": " << cradvise_query(number) << '\n';
	if (cradvise_reset() == -1)
		return 1;
	for (const int number : numbers)
		if (cradvise_query(number) != CR_ADV_NORMAL)
			return 1;
	struct cradvise_status status{};
	if (cradvise_status(&status, sizeof status) == -1)
		return 1;
	std::cout << status.text << '\n';
}
